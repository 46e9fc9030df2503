"""Numbers that would take all time or memory are refused with a line, before anything is computed."""

import pytest

from lossaware.cli import values as cli_values
from lossaware.errors import UsageError
from lossaware.studies.specs import run_spec
from lossaware.studies.specs.regular_file import MAX_SETTINGS
from lossaware.studies.specs.study import Overrides, load_study, parse_study
from lossaware.studies.specs.study_file import parse_settings
from support.command_line import lossaware
from support.small_grid import TEXT

POINTS = "\n".join(f"p{i} = {{}}" for i in range(101))
DOTTED = ".".join("a" * 3000)
HUGE = {
    "seeds": (("seeds = 2", "seeds = 1_000_000_000"), "must be at most 10000 seeds"),
    "a seed": (("seeds = 2", f"seeds = [{2**63}]"), "must be a number of seeds"),
    "epochs": (("epochs = 4", "epochs = 1_000_000_000"), "less than or equal to 1000000"),
    "batch_size": (("batch_size = 200", f"batch_size = {10**30}"), "batch_size: "),
    "digits": (("batch_size = 200", f"batch_size = {'9' * 5000}"), "not valid TOML"),
    "hexadecimal": (("batch_size = 200", f"batch_size = 0x{'f' * 5000}"), "batch_size: "),
    "an option": (("hidden = 8", f"hidden = 0x{'f' * 5000}"), "task_options.hidden: "),
    "cells": (("[derived]", f"[axes.a]\n{POINTS}\n[axes.b]\n{POINTS}\n[derived]"), "make 122412 cells; at most 10000"),
    "runs": (("seeds = 2", "seeds = 9999"), "more than 100000 runs"),
    "decimals": (("[90.0,", "[1e-999999999,"), "must list figures of a table"),
    "a figure": (("[90.0,", f"[{'9' * 4000},"), "must list figures of a table"),
    "a large figure": (("[90.0,", "[1e999999,"), "must list figures of a table"),
    "nested": (("seeds = 2", f"seeds = {'[' * 5000}"), "nested too deeply|not valid TOML"),
    "dotted": (("seeds = 2", f"seeds.{DOTTED} = 2"), "base.seeds: .* got a value that is nested too deeply"),
    "a dotted option": (("hidden = 8", f"hidden.{DOTTED} = 8"), "got a value that is nested too deeply"),
    "a dotted figure": (("[90.0,", f"[{{{DOTTED} = 1}},"), "must list numbers, got a value that is nested too deeply"),
    "mistakes": (("title", "\n".join(f"k{i} = 1" for i in range(20_000)) + "\ntitle"), "and 19999 more mistakes"),
}


@pytest.mark.parametrize(("change", "message"), HUGE.values(), ids=HUGE)
@pytest.mark.timeout(20)
def test_a_study_that_would_never_end(change, message):
    text = TEXT.replace(*change)
    assert text != TEXT
    if "cells" in message:
        text = text.replace('columns = ["strategy", "lr"]', 'columns = ["strategy", "lr", "a", "b"]')
    with pytest.raises(UsageError, match=message) as error:
        parse_study(text, "grid")
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings", [{"seeds": 10**9}, {"epochs": 10**12}, {"pad": "9" * 5000}, {"seeds": "0x" + "f" * 5000}], ids=range(4)
)
@pytest.mark.timeout(20)
def test_settings_of_a_command_line(settings):
    try:
        chosen = parse_settings(settings)
    except UsageError as error:
        assert len(str(error)) < 500  # noqa: PT017
    else:  # a number that Python does not read stays a text
        assert "pad" in settings
        assert load_study("table01").overridden(Overrides(settings=chosen))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seeds", "1000000000"],
        ["--seeds", "20000"],
        ["--epochs", "9" * 30],
        ["--batch-size", "9" * 5000],
        ["--lrs", "1e999"],
        ["--set", "hidden=" + "9" * 5000],
        ["--lrs", ",".join(f"{i}e-9" for i in range(1, 10_002))],
        ["--optimizers", ",".join(map(str, range(10_001)))],
    ],
    ids=range(8),
)
@pytest.mark.timeout(60)
def test_a_comparison_that_would_never_end(arguments, tmp_path, capsys):
    assert lossaware("compare", "digits", *arguments, "--out", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "," not in arguments[1] or "has 10001 values; at most 10000 are allowed" in error
    assert not (tmp_path / "out").exists()


def test_the_limit_of_seeds_is_the_same_everywhere():
    assert cli_values.MAX_SEEDS == run_spec.MAX_SEEDS


def test_a_large_study_file_is_not_read(tmp_path):
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(MAX_SETTINGS + 1)
    with pytest.raises(UsageError, match=f"at most {MAX_SETTINGS} are read"):
        load_study(str(tmp_path / "large.toml"))


@pytest.mark.timeout(20)
def test_a_study_file_that_is_a_device_is_not_opened(tmp_path):
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="this is a device"):
        load_study(str(tmp_path / "zero.toml"))
