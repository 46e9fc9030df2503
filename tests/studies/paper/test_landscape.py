"""Figure 1: the landscape is the paper's, and the vectorised descent is equal to that of LGA, point by point."""

from functools import partial
from pathlib import Path

import pytest
import torch

from lossaware import LGA
from lossaware.studies.paper import figures as paper_figures
from lossaware.studies.paper import landscape
from lossaware.studies.paper.figures import plot_figure1
from lossaware.studies.paper.landscape import Descent, Figure1, Share, loss, starting_points, turning_points
from lossaware.studies.report.writers.csv import to_csv
from support.command_line import lossaware


def real_path(start: float, descent: Descent, gamma2: float) -> list[float]:
    """One point, with torch's optimizer and the real LGA."""
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=descent.lr, momentum=descent.momentum)
    lga = LGA(optimizer, steps_per_epoch=descent.steps_per_status, gamma2=gamma2)
    points = [x.item()]
    for _ in range(descent.steps):
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        lga.observe(value)
        optimizer.step()
        points.append(x.item())
    return points


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps_per_status", [1, 7])
def test_every_point_moves_as_with_the_real_lga(momentum: float, steps_per_status: int) -> None:
    descent = Descent(momentum, steps_per_status, steps=40)
    starts = starting_points(4)
    gamma2s = [0.0, 1e-8, 2e-3, 3e-2]
    paths = descent.paths(starts, gamma2s)
    assert paths.shape == (41, 4, 4)
    for row, gamma2 in enumerate(gamma2s):
        for column, start in enumerate(starts.tolist()):
            real = torch.tensor(real_path(start, descent, gamma2), dtype=torch.float64)
            torch.testing.assert_close(paths[:, row, column], real, rtol=1e-9, atol=1e-9)
    assert (paths[-1, 0] - paths[-1, 3]).abs().max() > 0.1, "the largest gamma2 must matter"


def test_the_landscape_has_the_properties_of_the_caption() -> None:
    optima, barriers = turning_points()
    assert len(optima) == len(landscape.NAMES) == 5
    assert len(barriers) == 4
    assert sorted(optima + barriers) == [x for pair in zip(optima, [*barriers, None], strict=True) for x in pair if x]
    heights = loss(torch.tensor(optima, dtype=torch.float64)).tolist()
    assert heights == sorted(heights, reverse=True), "the nearer to E, the lower"
    assert heights[-1] == pytest.approx(0, abs=1e-3)
    # E is global: no other point is lower, including the walls.
    everywhere = loss(torch.linspace(-5, 15, 20_001, dtype=torch.float64))
    assert everywhere.min() >= heights[-1] - 1e-6
    # A and B: far away, shallow, and the gradients about them small.
    steepest = [slope(at) for at in optima]
    assert max(steepest[:2]) < 0.6 * min(steepest[2:])
    assert optima[-1] - optima[1] > 5


def slope(at: float) -> float:
    """The steepest slope about an optimum."""
    x = torch.linspace(at - 0.4, at + 0.4, 81, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    return float(gradient.abs().max())


def test_without_lga_points_stay_in_their_basin() -> None:
    starts = starting_points(21)
    ends = Descent(0.0, 1, steps=300).paths(starts, [0.0])[-1, 0]
    barriers = torch.tensor(turning_points()[1], dtype=torch.float64)
    assert torch.equal(torch.bucketize(starts, barriers), torch.bucketize(ends, barriers))


def test_only_a_push_longer_than_the_basin_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The push goes down the gradient, so a point leaves a basin by being thrown across its barrier, or never."""
    monkeypatch.setattr(landscape, "STARTS", 51)
    monkeypatch.setattr(landscape, "GAMMA2S", (0.0, 1e-8, 1e-3, 3e-2))
    shares = {(s.base, s.steps_per_status, s.gamma2): s for s in landscape.measure().shares}
    for base in landscape.BASES:
        for reading in landscape.READINGS:
            without, paper, short, _ = (shares[base, reading, gamma2] for gamma2 in landscape.GAMMA2S)
            assert without.gained == without.lost == without.first_push == 0
            # Without LGA all stay where they start: those that start beyond the last barrier are in E's basin.
            assert without.reached == int((starting_points(51) > turning_points()[1][-1]).sum()) < 51 / 3
            assert paper.reached == short.reached == without.reached
            assert 0 < paper.first_push < 1e-5
        long = shares[base, 30, 3e-2]
        assert long.reached > without.reached
        assert long.reached == without.reached + long.gained - long.lost
        assert long.first_push > 1


def test_figure_1_is_written_with_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], small: Figure1
) -> None:
    assert lossaware("plot", "figure01", "--to", str(tmp_path / "new")) == 0
    assert "without" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        f"figure01{ending}" for ending in ("-dark.svg", ".csv", ".json", ".png", ".svg")
    ]
    header, *lines = (tmp_path / "new" / "figure01.csv").read_text().splitlines()
    assert header.startswith("base,steps_per_status,gamma2")
    assert len(lines) == len(small.shares)
    assert (tmp_path / "new" / "figure01.svg").read_text() == plot_figure1(small).svg(), (
        "the same numbers, the same bytes"
    )
    assert str(tmp_path) not in (tmp_path / "new" / "figure01.json").read_text()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Figure1:
    """Figure 1 from few numbers."""
    shares = [
        Share(base, reading, gamma2, gamma2 * 250, 10, 3 + (gamma2 > 1e-3), 1, 0, 1.5)
        for base in landscape.BASES
        for reading in landscape.READINGS
        for gamma2 in landscape.GAMMA2S
    ]
    figure = Figure1(shares, {"steps": 40})
    monkeypatch.setattr(paper_figures, "Descent", partial(Descent, steps=40))
    monkeypatch.setattr(landscape, "measure", lambda: figure)
    return figure


def test_numbers_come_back_from_csv_bit_for_bit() -> None:
    value = 0.1 + 0.2
    assert float(to_csv([{"a": value}]).splitlines()[1]) == value
