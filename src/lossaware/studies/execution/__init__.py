"""Engines that execute runs, and the selection of the missing runs."""
