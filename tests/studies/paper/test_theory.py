"""The theorems compared with runs: where they hold, and where not; and that the quantities are the paper's."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossaware.studies.paper import theory, theory_adam
from lossaware.studies.paper.theory import COUNTEREXAMPLES, XI, Problem, Run, descend, quadratic
from lossaware.studies.paper.theory_adam import BETA1, BETA2, largest_moment, published_moment, train
from support.command_line import lossaware


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return theory.problems()


def test_problems_have_their_stated_properties(problems: list[Problem]) -> None:
    for problem in problems:
        assert 0 < problem.mu < problem.smoothness
        x = problem.optimum.clone().requires_grad_()
        problem.loss(x).backward()
        assert x.grad is not None
        assert x.grad.norm() < 1e-12, "x* is the optimum"
        for at in (problem.start, problem.optimum):
            curvatures = torch.linalg.eigvalsh(torch.func.hessian(problem.loss)(at))
            assert curvatures[0] >= problem.mu * (1 - 1e-9)
            assert curvatures[-1] <= problem.smoothness * (1 + 1e-9)
    assert [problem.loss(problem.start).item() for problem in problems[:2]] == pytest.approx([math.log(10)] * 2)
    assert problems[2].loss(problems[2].optimum) > 0.1
    across = torch.func.hessian(problems[1].loss)(problems[1].start)
    assert (across - across.diag().diag()).abs().max() > 1, "across the axes, coordinates depend on each other"


def test_lambda_is_the_theorems() -> None:
    problem = quadratic("two", torch.tensor([1.0, 4.0], dtype=torch.float64).diag(), torch.tensor([1.0, 0.5]).double())
    run = descend(problem, 0.05, 1e-4, 1)
    # By hand: f = 0.5 + 0.5, g = (1, 2), L_1 = (1 - 1 / log10(11)) f.
    omega = 1 / math.log10(11)
    assert run.omegas[0] == pytest.approx(omega, rel=1e-12)
    assert run.highest[0] == pytest.approx(0.05 + 1e-4 * omega / 1.01**2, rel=1e-12)
    assert run.lowest[0] == pytest.approx(0.05 + 1e-4 * omega / 2.01**2, rel=1e-12)
    assert run.exact[0] == pytest.approx(0.05 + 1e-4 * omega / 1.01, rel=1e-12)
    assert run.distances.tolist() == pytest.approx(
        [1.25, (1 - 0.05 - 1e-4 * omega / 1.01) ** 2 + (0.5 - 0.1 - 1e-4 * omega / 2.01) ** 2], rel=1e-12
    )
    assert run.base_bound.tolist() == pytest.approx([1.25, 1.25 * 0.95])
    assert run.lga_bound[1] == pytest.approx(1.25 * (1 - run.lowest[0]), rel=1e-12)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("gamma2", [0.0, 1e-8, 1e-6])
def test_the_bound_holds_on_the_studys_problems_within_the_condition(
    problems: list[Problem], number: int, gamma2: float
) -> None:
    run = descend(problems[number], 0.5 / problems[number].smoothness, gamma2, 60)
    assert run.premise
    assert run.condition
    assert run.broken(run.lga_bound) is None
    assert run.broken(run.base_bound) is None
    assert run.distances[-1] < run.distances[0]


@settings(max_examples=50, deadline=None)
@given(
    curvatures=st.lists(st.floats(0.1, 10), min_size=2, max_size=5),
    angle=st.floats(0, math.pi),
    fraction=st.floats(0.01, 1),
    start=st.integers(0, 2**31),
)
def test_one_lambda_within_the_condition_never_breaks_the_bound(
    curvatures: list[float], angle: float, fraction: float, start: int
) -> None:
    """The part that the proof shows: a common lambda <= 1/L, on any quadratic."""
    hessian = torch.tensor(curvatures, dtype=torch.float64).diag()
    turn = torch.eye(len(curvatures), dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    x = torch.randn(len(curvatures), generator=torch.Generator().manual_seed(start), dtype=torch.float64)
    problem = quadratic("any", turn.T @ hessian @ turn, x)
    run = descend(problem, fraction / problem.smoothness, 0.0, 20)
    assert run.broken(run.base_bound) is None


@settings(max_examples=100, deadline=None)
@given(lambdas=st.lists(st.floats(0.01, 1), min_size=3, max_size=3), seed=st.integers(0, 2**31))
def test_several_lambdas_shrink_the_distance_in_their_own_norm(lambdas: list[float], seed: int) -> None:
    """The correct statement of docs/theory.md: the norm weighted by 1 / lambda, for one step."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    hessian = root @ root.T + 0.1 * torch.eye(3, dtype=torch.float64)
    curvatures = torch.linalg.eigvalsh(hessian)
    scale = torch.tensor(lambdas, dtype=torch.float64) / curvatures[-1]  # all within 1/L
    before = torch.randn(3, generator=generator, dtype=torch.float64)
    after = before - scale * (hessian @ before)
    weighted = [float((e.square() / scale).sum()) for e in (before, after)]
    assert weighted[1] <= (1 - float(curvatures[0] * scale.min())) * weighted[0] * (1 + 1e-9)


@pytest.fixture(scope="module")
def broken() -> dict[str, Run]:
    return {example.name: example.make() for example in COUNTEREXAMPLES}


@pytest.mark.parametrize("name", [example.name for example in COUNTEREXAMPLES])
def test_each_counterexample_meets_the_conditions_and_violates_the_weakest_bound(
    broken: dict[str, Run], name: str
) -> None:
    run = broken[name]
    assert run.premise, "the theorem asks for 0 <= 1 - mu lambda"
    first = run.broken(run.base_bound)
    assert first is not None
    assert run.distances[first] > run.base_bound[first]
    assert np.isfinite(run.distances).all()
    assert run.distances.max() < 2 * run.distances[0] + 1e-6, "distances are bounded, as the theorem asks"


def test_counterexamples_lack_one_thing_each(broken: dict[str, Run]) -> None:
    for name, run in broken.items():
        lowest = run.problem.loss(run.problem.optimum).item()
        assert (lowest == 0) == (name != "lowest"), name
        assert run.condition == (name not in ("step", "push")), name
    assert broken["step"].gamma2 == 0, "the theorem breaks for gradient descent alone"
    assert broken["push"].gamma1 * broken["push"].problem.smoothness < 1, "and where the base is within 1/L"
    assert broken["push"].gamma2 > 0
    assert math.isinf(broken["rest"].exact[0]), "a gradient of 0 has no lambda"
    assert broken["metric"].exact.max() * broken["metric"].problem.smoothness < 1, "even the exact lambdas are small"
    assert broken["lowest"].distances[0] == 0


def test_without_lga_the_counterexamples_of_lga_hold(broken: dict[str, Run]) -> None:
    for name in ("push", "rest", "metric", "lowest"):
        run = broken[name]
        base = descend(run.problem, run.gamma1, 0.0, len(run.lowest))
        assert base.broken(base.base_bound) is None, name


def test_corollary_has_its_factor_upside_down() -> None:
    """That f - f* <= ||x - x*||^2 / (2M) is wrong for M > 1; M / 2 is right, and reached."""
    run = descend(quadratic("M", 100 * torch.eye(2, dtype=torch.float64), torch.ones(2).double()), 1e-3, 0.0, 3)
    assert (run.losses > run.distances / (2 * 100)).all()
    assert run.losses == pytest.approx(100 / 2 * run.distances)


# --- A.2 ------------------------------------------------------------------------------------------------------------


def test_difference_is_s1_minus_s2_from_the_same_state() -> None:
    problem = quadratic("one", torch.tensor([[1.0]]).double(), torch.tensor([1.0]).double())
    run = train(problem, 0.1, 1e-3, 1)
    omega = 0.5 / math.log10(11)
    push = 1e-3 * omega / (1 + XI)
    adam = 1 - 0.1 / (1 + theory_adam.TINY)  # the first step of Adam is alpha
    assert run.differences[0] == pytest.approx(adam**2 - (adam - push) ** 2, rel=1e-9)
    assert run.pushes[0] == pytest.approx(1e-3 * omega / XI, rel=1e-12)
    factor = 2 * 0.1 / (XI * (1 - BETA1) * math.sqrt(1 - BETA2))
    assert run.bound == pytest.approx(factor * omega, rel=1e-12)


def test_step_size_falls_with_the_root_of_the_step() -> None:
    problem = quadratic("one", torch.tensor([[1.0]]).double(), torch.tensor([1000.0]).double())
    first, third = (train(problem, 0.1, 0.0, steps).reaches[-1] for steps in (2, 4))
    second = train(problem, 0.1, 0.0, 3).reaches[-1]
    # Far away gradients hardly change, so Adam's step is alpha_t.
    assert 1000 - first == pytest.approx(0.1, rel=1e-3)
    assert first - second == pytest.approx(0.1 / math.sqrt(2), rel=1e-3)
    assert second - third == pytest.approx(0.1 / math.sqrt(3), rel=1e-3)


def test_published_bound_on_the_moments_is_broken_by_a_constant_gradient() -> None:
    t = np.arange(1, 100)
    ratios = (1 - BETA1**t) / np.sqrt(1 - BETA2**t)
    assert ratios[0] == pytest.approx(published_moment())
    assert ratios[1] > 1.3 * published_moment()
    assert ratios.max() < largest_moment()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60))
def test_sound_bound_on_the_moments_holds_for_all_gradients(gradients: list[float]) -> None:
    m = v = 0.0
    for g in gradients:
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        assert abs(m) <= largest_moment() * math.sqrt(v) * (1 + 1e-9) + 1e-150


def test_bound_of_a2_holds_where_gamma2_is_small_and_breaks_far_away(problems: list[Problem]) -> None:
    for problem in problems[:2]:
        run = train(problem, 1e-3, 1e-4, 40)
        assert 0 < abs(run.differences.sum()) < 1e-3 * run.bound, "it holds, and says little"
        assert (run.excess <= run.sound_bounds * (1 + 1e-9)).all()
    far = theory_adam.counterexample()
    assert far.gamma2 <= far.alpha / 100, "gamma2 is far below alpha, as A.2 asks"
    assert far.differences.sum() > 5 * far.bound
    assert (far.excess <= far.sound_bounds * (1 + 1e-9)).all()


# --- the command ----------------------------------------------------------------------------------------------------


def test_command_writes_tables_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, problems: list[Problem]
) -> None:
    monkeypatch.setattr(theory, "STEPS", 10)
    monkeypatch.setattr(theory, "STEP_SIZES", (0.5, 2.0))
    monkeypatch.setattr(theory_adam, "STEPS", 10)
    monkeypatch.setattr(theory, "COUNTEREXAMPLES", [example for example in COUNTEREXAMPLES if example.name != "step"])
    assert lossaware("theory", "--to", str(tmp_path)) == 0
    assert "Theorem 3.1" in capsys.readouterr().out
    with (tmp_path / "theory-convergence.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(problems) * 2 * len(theory.GAMMA2S)
    assert {row["needed"] for row in rows} == {"True", "False"}
    assert {row["R_T_by_base"] for row in rows if row["gamma2"] == "0.0"} == {"1.0"}
    assert '"commit"' in (tmp_path / "theory.json").read_text()
    assert (tmp_path / "theory.png").read_bytes().startswith(b"\x89PNG")
    light, dark = ((tmp_path / name).read_text() for name in ("theory.svg", "theory-dark.svg"))
    assert "#ffffff" in light
    assert "#ffffff" not in dark


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert lossaware("theory", "--to", str(tmp_path / "file")) == 2
    error = capsys.readouterr().err
    assert error == f"lossaware: cannot write to {tmp_path / 'file'}: it is a file, not a folder\n"
    assert (tmp_path / "file").read_text() == "mine"
