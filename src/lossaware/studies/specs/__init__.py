"""Run specifications and studies, and the registries of their parts."""
