"""The command line. Imports what a command needs only when it runs, so that help comes at once."""

from lossaware.cli.app import app, main

__all__ = ["app", "main"]
