"""`lossaware.compare`: a comparison from Python or a notebook."""

import re
import subprocess
import sys

import pytest

import lossaware
from lossaware import UsageError
from lossaware.extras import how_to_install
from support import needs
from support.quadratic import EPOCHS, train


@pytest.fixture(scope="module")
def result():
    return lossaware.compare(train, direction="minimize", lrs=[1e-3, 1e-2], seeds=6, gamma2=[1e-2], progress=False)


def test_a_result_has_its_verdict_numbers_and_report(result, tmp_path):
    assert result.verdicts == ["helps", "helps"]
    assert result.verdict.startswith("On the norm, LGA helps in 2 of 2 comparisons")
    assert result.failures == []
    assert repr(result) == f"<comparison: {result.verdict}>"
    assert [len(row["scores"]) for row in result.to_dict()] == [6, 6]
    page = result.report(tmp_path / "page.html").read_text()
    assert "Does LGA help on train?" in page


@pytest.mark.parametrize("width", [60, 80, 120])
def test_print_shows_a_table_of_the_terminals_width(result, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = str(result).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("1e-")][:2] == ["helps", "helps"]
    end = lines.index(result.verdict)
    assert all(len(line) <= width for line in lines[:end])
    assert lines[end + 1].startswith("At the learning rate that is the best tried, it reaches ")


def test_a_notebook_shows_a_table(result):
    html = result._repr_html_()
    assert html.count("<tr") == 3
    assert html.count(">helps</span>") == 2
    assert "1e-2" in html
    assert "At the learning rate that is the best tried, it reaches " in html


def test_the_curves_are_the_reports(result):
    curves = result.curves()
    assert len(curves) == 2 * 2 * 6 * EPOCHS  # learning rates, arms, seeds, epochs
    assert set(curves[0]) == {"lr", "arm", "seed", "epoch", "loss", "norm"}
    last = {(row["lr"], row["arm"], row["seed"]): row["norm"] for row in curves if row["epoch"] == EPOCHS}
    for row in result.to_dict():
        ended = [last[row["setting"]["lr"], "with LGA", seed] for seed in range(6)]
        assert [score["with"] for score in row["scores"]] == pytest.approx(ended)


def test_as_a_frame(result):
    needs("pandas")
    frame = result.to_frame()
    assert list(frame.columns) == ["lr", "arm", "seed", "norm"]
    assert len(frame) == 2 * 2 * 6
    means = frame.groupby(["lr", "arm"])["norm"].mean()
    assert means["1e-2", "with LGA"] < means["1e-2", "without"]


def test_a_frame_without_pandas_is_one_line(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=re.escape(how_to_install("notebook"))):
        result.to_frame()


def test_a_function_without_a_file_as_in_a_notebook():
    space: dict = {}
    exec("def train(trial):\n    return trial.seed * 1.0 + (trial.arm == 'lga')", space)
    with pytest.raises(UsageError, match=r"does not call trial.attach"):
        lossaware.compare(space["train"], direction="maximize", seeds=2, progress=False)
    with pytest.raises(UsageError, match="not in a file"):
        lossaware.compare(space["train"], direction="maximize", seeds=2, progress=False, out="somewhere")


def test_finished_runs_are_kept_in_a_folder(tmp_path, capsys):
    arguments = {"direction": "minimize", "lrs": 1e-2, "seeds": 2, "out": tmp_path / "out"}
    first = lossaware.compare(train, **arguments)
    assert "4 runs to do" in capsys.readouterr().err
    second = lossaware.compare(train, **arguments)
    assert "to do" not in capsys.readouterr().err
    assert first.to_dict() == second.to_dict()
    assert (tmp_path / "out" / "report.html").exists()
    other = lossaware.compare(train, **arguments, set={"start": 2.0})
    assert "4 runs to do" in capsys.readouterr().err
    assert other.to_dict() != first.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "up"}, "--direction must be maximize or minimize"),
        ({"seeds": 0}, "seeds must be an integer of at least 1"),
        ({"epochs": "3"}, "epochs must be an integer of at least 1, got '3'"),
        ({"lrs": ["1e-3"]}, r"lrs must be numbers above 0, such as lrs=\[1e-4, 1e-3\], got '1e-3'"),
        ({"lrs": None}, "lrs="),
        ({"set": {"strat": 1}}, "did you mean start"),
        ({"train": lambda: 0}, "a function of one argument"),
        ({"lga": {"xi": 0.0}}, "xi must be a finite number above 0"),
    ],
)
def test_mistakes(change, message):
    arguments = {"train": train, "direction": "minimize", "lrs": [1e-2], "seeds": 2, "progress": False, **change}
    with pytest.raises(UsageError, match=message):
        lossaware.compare(arguments.pop("train"), **arguments)


def test_a_missing_package_is_named():
    code = "import sys; sys.modules['rich'] = None; import lossaware; lossaware.compare"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"ImportError: lossaware.compare needs rich: {how_to_install('studies')}" in result.stderr


def test_a_notebook_shows_a_mistake_as_one_line():
    with pytest.raises(UsageError) as caught:
        lossaware.compare(train, direction="minimize", seeds=0)
    assert caught.value._render_traceback_() == ["UsageError: seeds must be an integer of at least 1, got 0"]
