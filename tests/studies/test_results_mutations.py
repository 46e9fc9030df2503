"""Stored results changed at random: they are refused, or show the same numbers."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest

from lossaware.errors import UsageError
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec, options
from lossaware.studies.store.database import Store
from mutations import change_content

SPECS = [
    RunSpec(task="digits", optimizer=optimizer, lr=0.1 + 0.2, seed=seed, epochs=4, batch_size=64, lga=lga)
    for optimizer in ("sgd", "adam")
    for seed in range(5)
    for lga in (None, options(gamma2=1e-8))
]
RANDOM = np.random.default_rng(0)
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
            begun = replace(SPECS[0], seed=seed)
            store.begin(begun)
            store.record(begun, record(begun, 1))
        store.fail(begun, "out of memory")
    return path


def shown(path):
    """All that a table is made of."""
    with Store(path, read_only=True) as store:
        specs = sorted(store.specs(), key=lambda spec: spec.key)
        return [(spec, store.records(spec), store.complete(spec)) for spec in specs]


def shown_or_line(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return shown(path)
        except UsageError as error:
            return error


@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_change_of_a_database_is_accepted_with_other_numbers(database, tmp_path, rounds):
    random = np.random.default_rng(rounds)
    before = shown(database)
    refused = 0
    for _ in range(rounds):
        copy = tmp_path / "results.sqlite"
        shutil.copy(database, copy)
        said = change_content(copy, random)
        after = shown_or_line(copy)
        if isinstance(after, UsageError):
            assert "\n" not in str(after), said
            refused += 1
        else:
            assert after == before, said
        for path in tmp_path.iterdir():
            path.unlink()
    assert refused > rounds / 4


@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_digit_of_a_stored_value_is_accepted_changed(database, tmp_path, rounds):
    """Only where numbers are, which a change anywhere seldom meets."""
    random = np.random.default_rng(rounds)
    content = database.read_bytes()
    places = [place for place in range(1, len(content) - 1) if content[place - 1 : place + 2].isdigit()]
    copy = tmp_path / "results.sqlite"
    before = shown(database)
    refused = 0
    for place in random.choice(places, rounds):
        digit = (int(content[place : place + 1]) + int(random.integers(1, 10))) % 10
        copy.write_bytes(content[:place] + str(digit).encode() + content[place + 1 :])
        after = shown_or_line(copy)
        if isinstance(after, UsageError):
            refused += 1
        else:
            assert after == before, place
    assert refused > rounds / 2
