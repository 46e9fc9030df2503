"""The command line. A command's imports are in its function, so that help is fast."""

from lossaware.cli.app import app, main

__all__ = ["app", "main"]
