"""Run specifications and studies: what a run is, and where its parts are found by name."""
