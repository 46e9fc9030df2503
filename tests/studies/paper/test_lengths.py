"""The epoch that fits a published column best: found where it is known, with intervals that mean something."""

from pathlib import Path

import numpy as np
import pytest

from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.paper.lengths import Column, columns, difference, interval, pair_rows, pairs, rows
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.study import load_study
from support.command_line import lossaware
from support.made_up import MadeUp

EPOCHS = 20
NAMES = tuple("abcdefg")


def column(epoch: int, *, with_lga: bool = False, noise: float = 0.0, seed: int = 0) -> Column:
    """Published figures that are the curves at an epoch, and noise."""
    rng = np.random.default_rng(seed)
    curves = 100 - np.exp(rng.normal(1.5, 0.3, (7, 1))) * np.arange(1, EPOCHS + 1.0) ** -0.7
    return Column("s", ("x",), with_lga, NAMES, curves, curves[:, epoch - 1] + rng.normal(0, noise, 7))


@pytest.mark.parametrize("epoch", [1, 10, EPOCHS])
def test_the_epoch_that_was_published_is_found(epoch):
    exact = column(epoch)
    assert exact.best_epoch == epoch
    assert exact.distances[epoch - 1] == 0
    assert interval(exact) == (epoch, epoch)


def test_the_interval_covers_the_epoch_where_the_figures_are_noisy():
    noisy = [column(10, noise=0.05, seed=seed) for seed in range(40)]
    covered = [low <= 10 <= high for low, high in map(interval, noisy)]
    assert np.mean(covered) > 0.8
    assert any(low < high for low, high in map(interval, noisy))


def test_a_later_epoch_with_lga_differs_from_no_epoch():
    later, low, high = difference(column(10, noise=0.02), column(18, with_lga=True, noise=0.02))
    assert low <= later <= high
    assert low > 0
    same, low, high = difference(column(18, noise=0.2), column(18, with_lga=True, noise=0.2))
    assert low <= same <= high
    assert low <= 0 <= high


class Runs(MadeUp):
    """Curves of Table 2 whose last epoch without LGA, or with it, is far from the published figures."""

    def __init__(self, best: dict[bool, int]) -> None:
        super().__init__()
        table = load_study("table02")
        self.published = {cell.specs: float(cell.published) for cell in table.cells.values() if cell.published}
        self.arms = {spec: specs for specs in self.published for spec in specs}
        self.best = best

    def records(self, spec: RunSpec) -> list[EpochRecord]:
        target = self.published[self.arms[spec]]
        at = self.best[spec.lga is not None]
        scores = [(target + 0.1 * (epoch - at)) / 100 for epoch in range(1, EPOCHS + 1)]
        return [EpochRecord(i + 1, {"accuracy": s}, {"accuracy": s}, None, 1.0) for i, s in enumerate(scores)]


def test_columns_and_pairs_of_a_table():
    runs = Runs({False: 10, True: 20})
    lengths = columns([tabulate(load_study("table02"), runs)], runs)
    rates = ("1e-1", "1e-2", "1e-3", "1e-4")
    assert {(it.setting, it.with_lga) for it in lengths} == {((lr,), lga) for lr in rates for lga in (False, True)}
    # At 1e-1 RMSprop and Adam were published at chance, so these cells do not depend on epochs.
    assert {len(it.algorithms) for it in lengths if it.setting == ("1e-1",)} == {5}
    assert {row["best_epoch"] for row in rows(lengths) if row["lga"] == "without"} == {10}
    assert [row["later"] for row in pair_rows(pairs(lengths))] == [10] * 4
    assert all(row["supports"] for row in pair_rows(pairs(lengths)))


def test_the_command_writes_tables_and_a_picture_of_the_stored_results(tmp_path: Path, capsys):
    results = Path(__file__).parents[3] / "results"
    assert lossaware("lengths", "--results", str(results), "--out", str(tmp_path / "out"), "--to", str(tmp_path)) == 0
    assert "table02: 1e-2" in capsys.readouterr().out
    assert (tmp_path / "lengths.png").exists()
    same = [(folder / "lengths-pairs.csv").read_text() for folder in (tmp_path, results)]
    assert same[0] == same[1], "results/lengths was made from other runs: lossaware lengths"


def test_without_runs_it_names_the_command(tmp_path: Path, capsys):
    assert lossaware("lengths", "--results", str(tmp_path), "--out", str(tmp_path / "out"), "--to", str(tmp_path)) == 2
    assert "lossaware study run table02" in capsys.readouterr().err
