"""A comparison: checks, execution and report."""
