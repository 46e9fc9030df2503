"""Runs in TensorBoard's own format, read back by its own reader."""

import subprocess
import sys
from pathlib import Path

import pytest

from support import needs


def scalars(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    accumulator = needs("tensorboard.backend.event_processing.event_accumulator")
    scalars_by_run = {}
    for run in sorted(folder.iterdir()):
        events = accumulator.EventAccumulator(str(run))
        events.Reload()
        scalars_by_run[run.name] = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
        }
    return scalars_by_run


def compare(folder: Path) -> None:
    words = "compare digits --optimizers sgd --lrs 1e-2 --seeds 1 --epochs 2 --jobs 1 --tensorboard logs".split()
    result = subprocess.run([sys.executable, "-m", "lossaware", *words], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_compare_logs_each_epoch_also_of_stored_runs(tmp_path: Path) -> None:
    needs("tensorboard")
    from lossaware.studies.store.database import Store

    compare(tmp_path)
    logged = scalars(tmp_path / "logs")
    assert len(logged) == 2
    with Store(tmp_path / "lossaware-out" / "results.sqlite", read_only=True) as store:
        for spec in store.specs():
            (name,) = [name for name in logged if name.endswith(spec.key)]
            assert ("with LGA" in name) == (spec.lga is not None)
            for record in store.records(spec):
                epoch, loss = logged[name]["train/loss"][record.epoch - 1]
                assert epoch == record.epoch
                assert loss == pytest.approx(record.train["loss"], rel=1e-6)
            assert ("lga/gamma2" in logged[name]) == (spec.lga is not None)

    # The second time nothing is computed; the same points are written again, none twice.
    compare(tmp_path)
    assert scalars(tmp_path / "logs") == logged
