"""The built-in tasks, one file each: a ``SUMMARY`` line and ``build(**options) -> Task``."""
