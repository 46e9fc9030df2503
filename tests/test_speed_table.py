"""The table of goals of `benchmarks.speed`: what it counts, and what it prints of a missed goal."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import cachegrind, loops, speed
from benchmarks.counting import calls_of_python, loops_of
from benchmarks.goals import ATTEMPTS, Counter, Goal, SkippedError, explained

ROOT = Path(__file__).parents[1]
MISSED = Goal("closed gate", "SGD, 10 M, step / base step", 1.03, 1.01)
MET = Goal("closed gate", "Adam, 10 M, step / base step", 1.0, 1.01)
COUNTER = Counter("closed gate", "SGD,", "calls of Python that LGA adds", 41, "")
CACHEGRIND = """\
==7== Cachegrind, a cache and branch-prediction profiler
==7==
==7== I   refs:      9,123,456
==7== I1  misses:        1,097
==7==
==7== D   refs:      3,605,119  (2,402,023 rd   + 1,203,096 wr)
==7== D1  misses:      395,501  (  262,411 rd   +   133,090 wr)
==7== LLd misses:      394,703  (  261,733 rd   +   132,970 wr)
"""
HLO = """\
HloModule jit_step, is_scheduled=true

%fused (p: f32[2000]) -> f32[2000] {
  ROOT %inner = f32[2000]{0} add(%p, %p)
}

ENTRY %main.2 (p: f32[2000], m: f32[20,100], rate: f32[]) -> (f32[2000], f32[2000]) {
  %p.1 = f32[2000]{0} parameter(0)
  %m.1 = bf16[20,100]{1,0} parameter(1)
  %rate.1 = f32[] parameter(2)
  %small = f32[] fusion(%rate.1), kind=kLoop, calls=%other
  %flat = bf16[2000]{0} bitcast(%m.1)
  %first = f32[2000]{0} fusion(%p.1, %flat, /*index=2*/%small), kind=kLoop, calls=%fused
  %second = f32[2000]{0} fusion(%first, %p.1), kind=kLoop, calls=%fused
  ROOT %tuple = (f32[2000]{0}, f32[2000]{0}) tuple(%first, %second)
}
"""


def test_a_missed_goal_is_explained_by_its_own_counters() -> None:
    others = [Counter("closed gate", "Adam,", "of Adam", 1), Counter("whole step", "SGD,", "of another item", 1)]
    (line,) = explained([MISSED, MET], [COUNTER, *others])
    assert line == (
        "- missed: closed gate, SGD, 10 M, step / base step, 1.03 instead of 1.01. calls of Python that LGA adds: 41. "
        "Attempts: docs/speed.md#closed-gate"
    )
    assert "without a counter" in explained([MISSED], others)[0]


def test_the_command_prints_table_and_explanations_and_goes_on_after_what_it_skips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(part: str, _: float, *, large: bool) -> object:
        if part == "cachegrind":
            raise SkippedError("valgrind is not installed")
        return [MISSED, MET, COUNTER], {"calls": [{"step": "SGD", "calls": 41}]}

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["speed", "cachegrind", "closed", "--output", str(tmp_path)])
    speed.main()
    output = capsys.readouterr()
    assert "cachegrind: skipped, valgrind is not installed\n" in output.err
    assert "| closed gate | SGD, 10 M, step / base step | 1.03 | ≤ 1.01 |  | **missed** |" in output.out
    assert output.out.splitlines()[-1] == explained([MISSED], [COUNTER])[0]
    assert explained([MISSED], [COUNTER])[0] in (tmp_path / "goals.md").read_text(encoding="utf-8")
    assert (tmp_path / "calls.csv").read_text(encoding="utf-8").split() == ["step,calls", "SGD,41"]
    assert list(json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["parts"]) == ["closed"]


def test_each_item_names_a_section_of_the_docs() -> None:
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    sections = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    assert set(ATTEMPTS.values()) <= sections
    parts = json.loads((ROOT / "results" / "speed" / "speed.json").read_text(encoding="utf-8"))["parts"].values()
    assert {goal["item"] for part in parts for goal in part["goals"]} <= set(ATTEMPTS)


def test_counts_of_cachegrind() -> None:
    assert cachegrind.parsed(CACHEGRIND) == (9_123_456, 395_501)
    with pytest.raises(ValueError, match="did not write its counts: valgrind: unknown option"):
        cachegrind.parsed("valgrind: unknown option\n")


@pytest.mark.parametrize("name", cachegrind.LINES)
def test_the_counted_program_moves_parameters(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    driver = tmp_path_factory.getbasetemp() / "driver"
    try:
        driver = driver if driver.exists() else cachegrind.built(driver.parent)
    except SkippedError as error:
        pytest.skip(str(error))
    assert [subprocess.run([driver, name, passes], check=False).returncode for passes in ("0", "1")] == [1, 0]


def test_loops_of_optimized_hlo() -> None:
    """Two loops: the first reads 4 and 2 bytes an element and writes 4, the second reads twice 4 and writes 4."""
    assert loops_of(HLO, 2000) == (2, 2000 * (10 + 12))
    assert loops_of(HLO, 2001) == (0, 0)


def test_loops_of_a_function_that_xla_compiled() -> None:
    jax = pytest.importorskip("jax")

    def step(p: object, g: object) -> object:
        return p - 0.1 * g  # type: ignore[operator]

    p = jax.numpy.ones(5000)
    assert loops_of(jax.jit(step).lower(p, p).compile().as_text(), 5000) == (1, 12 * 5000)


def test_calls_of_python() -> None:
    def inner() -> int:
        return len("")

    def outer() -> list[int]:
        return [inner(), inner()]

    assert calls_of_python(outer) == 4
    assert calls_of_python(lambda: None) == 0


def test_every_loop_of_the_table_is_in_the_source() -> None:
    text = (ROOT / "benchmarks" / "loops.cpp").read_text(encoding="utf-8")
    declared = {*re.findall(r"^(?:GENERATED|BY_HAND)\((\w+),", text, re.M)}
    declared |= {f"{name}_fetched" for name in re.findall(r"^FETCHED\((\w+),", text, re.M)}
    assert declared == {function for of_optimizer in loops.LOOPS.values() for function in of_optimizer.values()}
