"""Programs that the tests of killing start and kill. They must be importable, as their processes import them."""

import math
import multiprocessing
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lossaware.studies.execution import local
from lossaware.studies.execution.factory import make_engine
from lossaware.studies.execution.local import LocalEngine
from lossaware.studies.execution.supervise import execute_missing
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.store.database import Store
from lossaware.studies.training import checkpoint


def execute_and_send(path: Path, specs: list[RunSpec], jobs: int, seconds: float, messages: Connection) -> None:
    """Executes missing runs and yields each event after it is stored, with a checkpoint interval in seconds.

    The workers are forked from this process, which has imported torch: a fork server would take seconds per kill. The
    program (`main`) has one.
    """
    fork: Any = multiprocessing.get_context("fork")
    local._context = lambda specs: fork
    checkpoint.SECONDS, checkpoint.SHARE = seconds, math.inf
    with Store(path) as store:
        for event in execute_missing(specs, store, LocalEngine(jobs), None):
            messages.send(event)


def write_and_send(path: Path, spec: RunSpec, records: list[EpochRecord], messages: Connection) -> None:
    """Writes epochs as fast as possible and reports each one."""
    with Store(path) as store:
        store.begin(spec)
        for record in records:
            store.record(spec, record)
            messages.send(record.epoch)


def main() -> None:
    """The program ``killing.py DATABASE ENGINE``; prints one line per event."""
    specs = [RunSpec("digits", "sgd", 0.01, seed=seed, epochs=10_000, batch_size=32) for seed in range(3)]
    print("starting", flush=True)
    try:
        with Store(Path(sys.argv[1])) as store:
            for event in execute_missing(specs, store, make_engine(sys.argv[2], jobs=2), None):
                print(type(event).__name__, flush=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        sys.exit(130)


# A script may leave `if __name__ == "__main__"` out, as workers do not execute it again. This one only looks at the
# program's name, so that a worker that executes it again would be detected.
if Path(sys.argv[0]).name == Path(__file__).name:
    main()
