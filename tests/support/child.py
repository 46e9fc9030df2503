"""A process that begins as a worker does."""

import os
import sys

from lossaware.studies.execution.processes import begin_process

SAFE, USUAL = 10, 11


def main() -> None:
    """Ends with `SAFE` if what it starts does not import from the current folder."""
    begin_process()
    sys.exit(SAFE if "PYTHONSAFEPATH" in os.environ else USUAL)
