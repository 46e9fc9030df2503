"""Stored results changed at random: they are refused, or show the same numbers."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest

from lossaware.errors import UsageError
from lossaware.studies.analysis.collect import show
from lossaware.studies.analysis.export import export
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec, options
from lossaware.studies.specs.study import Overrides, parse_study
from lossaware.studies.specs.study_file import parse_settings
from lossaware.studies.store.database import Store
from lossaware.studies.store.exported import Exported
from lossaware.studies.store.folder import Launch
from lossaware.studies.store.results import Sources
from support.made_up import MadeUp
from support.mutations import change_content
from support.small_grid import format_table

SPECS = [
    RunSpec(task="digits", optimizer=optimizer, lr=0.1 + 0.2, seed=seed, epochs=4, batch_size=64, lga=lga)
    for optimizer in ("sgd", "adam")
    for seed in range(5)
    for lga in (None, options(gamma2=1e-8))
]
RANDOM = np.random.default_rng(0)
GRID = """
title = "A small grid"
rows = ["algorithm"]
columns = ["strategy"]

[base]
task = "digits"
epochs = 4
batch_size = 200
lr = 0.1
seeds = 3
lga = { gamma2 = 1e-6 }

[measure]
set = "test"
name = "accuracy"

[axes.algorithm]
SGD = { optimizer = "sgd" }
Adam = { optimizer = "adam" }

[axes.strategy]
"w/o LGA" = { lga = false }
"w/ LGA" = {}
"""
ROUNDS = [50, pytest.param(2000, marks=[pytest.mark.mutations, pytest.mark.timeout(1800)])]


def record(spec, epoch):
    train, test = ({name: float(RANDOM.uniform(0, 2)) for name in ("loss", "accuracy")} for _ in range(2))
    lga = None if spec.lga is None else {"gamma2": 1e-8, "steps": 40.0 * epoch}
    return EpochRecord(epoch, train, test, lga, float(RANDOM.uniform(1, 9)))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Complete runs, one that has begun, and one that failed."""
    path = tmp_path_factory.mktemp("out") / "results.sqlite"
    with Store(path) as store:
        for spec in SPECS:
            store.begin(spec)
            for epoch in range(1, spec.epochs + 1):
                store.record(spec, record(spec, epoch))
        for seed in (8, 9):
            unfinished = replace(SPECS[0], seed=seed)
            store.begin(unfinished)
            store.record(unfinished, record(unfinished, 1))
        store.fail(unfinished, "out of memory")
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exported files of a study, whose numbers are random."""
    study = parse_study(GRID, "grid")
    known = Known({spec: [record(spec, epoch) for epoch in range(1, 5)] for spec in study.specs})
    folder = tmp_path_factory.mktemp("results")
    launches = [Launch.now(study.overridden(Overrides(settings=parse_settings({"seeds": 2}))))]
    export(show(study, known, launches), Sources([known]), launches, folder)
    return folder


class Known(MadeUp):
    def environment(self, spec):
        return {"lossaware": "0.1.0", "date": "2026-11-01T00:00:00+00:00", "command": "lossaware study run grid"}


def contents(path):
    """All that a table is made of."""
    with Store(path, read_only=True) as store:
        specs = sorted(store.specs(), key=lambda spec: spec.key)
        return [(spec, store.records(spec), store.complete(spec)) for spec in specs]


def shown_of_exported(folder):
    study = parse_study(GRID, "grid")
    exported = Exported(folder)
    table = show(study, Sources([exported]), exported.launches(study))
    specs = sorted(exported.specs(), key=lambda spec: spec.key)
    runs = [(spec, exported.records(spec), exported.environment(spec)) for spec in specs]
    return format_table(table, "csv"), format_table(table, "markdown"), runs


def or_line(show, path):
    """The shown numbers, or the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return show(path)
        except UsageError as error:
            return error


def is_one_line(result):
    return isinstance(result, UsageError) and "\n" not in str(result)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_change_of_a_database_is_accepted_with_other_numbers(database, tmp_path, rounds):
    random = np.random.default_rng(rounds)
    before = contents(database)
    refused = 0
    for _ in range(rounds):
        copy = tmp_path / "results.sqlite"
        shutil.copy(database, copy)
        change = change_content(copy, random)
        after = or_line(contents, copy)
        assert is_one_line(after) or after == before, change
        refused += isinstance(after, UsageError)
        for path in tmp_path.iterdir():
            path.unlink()
    print(f"{rounds} changes of a database: {refused} refused, {rounds - refused} without effect")
    assert refused > rounds / 4


@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_digit_of_a_stored_value_is_accepted_changed(database, tmp_path, rounds):
    """Only where numbers are, which a change anywhere seldom meets."""
    random = np.random.default_rng(rounds)
    content = database.read_bytes()
    places = [place for place in range(1, len(content) - 1) if content[place - 1 : place + 2].isdigit()]
    copy = tmp_path / "results.sqlite"
    before = contents(database)
    refused = 0
    for place in random.choice(places, rounds):
        digit = (int(content[place : place + 1]) + int(random.integers(1, 10))) % 10
        copy.write_bytes(content[:place] + str(digit).encode() + content[place + 1 :])
        after = or_line(contents, copy)
        assert is_one_line(after) or after == before, place
        refused += isinstance(after, UsageError)
    print(f"{rounds} changes of a digit of a database: {refused} refused, {rounds - refused} without effect")
    assert refused > rounds / 2


@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_change_of_exported_files_is_accepted_with_other_numbers(exported, tmp_path, rounds):
    random = np.random.default_rng(rounds)
    before = shown_of_exported(exported)
    names = sorted(path.name for path in exported.iterdir())
    assert names == ["grid-epochs.csv", "grid.csv", "grid.study.json"]
    refused = 0
    for _ in range(rounds):
        copy = tmp_path / "results"
        shutil.copytree(exported, copy)
        change = change_content(copy / names[random.integers(3)], random)
        after = or_line(shown_of_exported, copy)
        assert is_one_line(after) or after == before, change
        refused += isinstance(after, UsageError)
        shutil.rmtree(copy)
    print(f"{rounds} changes of exported files: {refused} refused, {rounds - refused} without effect")
    assert refused > rounds / 2
