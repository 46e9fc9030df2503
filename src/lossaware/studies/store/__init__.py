"""Crash-safe results: a database, exported files, and the folder of both."""
