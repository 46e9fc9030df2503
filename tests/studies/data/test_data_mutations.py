"""Data files changed at random: they are refused, or give the same values."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from lossaware.errors import UsageError
from lossaware.studies.data.checksums import MANIFEST, record_files
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.sets import DATA_SETS
from lossaware.studies.specs.tasks import load_task
from support.mutations import change_content, change_folder

TASKS = {
    "mnist": ("mnist", {}),
    "cifar10": ("cifar10", {}),
    "cifar100": ("cifar100", {}),
    "tinyimagenet": ("tinyimagenet", {}),
    "segmentation": ("segmentation", {}),
    "tacos": ("grounding", {"features": "stand-in"}),
}


def values(task, folder):
    """A digest of all tensors that a task reads."""
    data = task.data(folder)
    digest = hashlib.sha256()
    for examples in (data.train, data.test):
        queries = getattr(examples, "queries", examples)
        for tensor in (*queries.tensors, getattr(examples, "features", torch.zeros(0))):
            digest.update(str(tensor.shape).encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def count_refused(task, folder, copy, change, rounds, seed):
    """The number of refused changes of ``folder``; none may be accepted with other values."""
    random = np.random.default_rng(seed)
    before = values(task, folder)
    refused = 0
    for _ in range(rounds):
        shutil.copytree(folder, copy)
        mutation = change(copy, random)
        after = values_or_line(task, copy)
        if isinstance(after, UsageError):
            assert "\n" not in str(after), mutation
            refused += 1
        else:
            assert after == before, mutation
        shutil.rmtree(copy)
    return refused


def values_or_line(task, folder):
    try:
        return values(task, folder)
    except UsageError as error:
        return error


def only(example_data, name, tmp_path):
    """A folder with only that data set."""
    place = DATA_SETS[name].place.split("/")[0]
    shutil.copytree(example_data / place, tmp_path / "only" / place)
    return tmp_path / "only"


ROUNDS = [6, pytest.param(120, marks=[pytest.mark.mutations, pytest.mark.timeout(1800)])]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("name", TASKS)
def test_no_change_is_accepted_with_other_values(example_data, tmp_path, name, rounds):
    task, options = TASKS[name]
    record_files(DATA_SETS[name], example_data)
    folder = only(example_data, name, tmp_path)
    if name == "tinyimagenet":
        rounds = -(-rounds // 4)  # it has four hundred files
    refused = count_refused(load_task(task, options), folder, tmp_path / "copy", change_folder, rounds, rounds)
    print(f"{rounds} changes of {name}: {refused} refused, {rounds - refused} without effect")
    assert refused > rounds / 4, "the changes reach what is read"


@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_change_of_published_files_is_accepted_without_a_manifest(example_data, tmp_path, monkeypatch, rounds):
    """Like files of MNIST that were copied there by hand."""
    folder = only(example_data, "mnist", tmp_path)
    raw = folder / "MNIST" / "raw"
    (raw / MANIFEST).unlink()
    remotes = tuple(
        replace(remote, content_md5=hashlib.md5((raw / remote.name.removesuffix(".gz")).read_bytes()).hexdigest())
        for remote in DATA_SETS["mnist"].files
    )
    monkeypatch.setitem(DATA_SETS, "mnist", replace(DATA_SETS["mnist"], files=remotes))
    refused = count_refused(load_task("mnist"), folder, tmp_path / "copy", change_folder, rounds, rounds)
    assert refused > rounds / 4


def change_manifest(folder, random):
    return change_content(next(folder.rglob(MANIFEST)), random)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_change_of_a_manifest_hides_a_change_of_files(example_data, tmp_path, rounds):
    """One file is already changed; this is never accepted, for any change of the manifest."""
    folder = only(example_data, "cifar10", tmp_path)
    record_files(DATA_SETS["cifar10"], folder)
    task = load_task("cifar10")
    values(task, folder)
    random = np.random.default_rng(rounds)
    place = folder / "cifar-10-batches-bin"
    content = (place / "data_batch_3.bin").read_bytes()
    (place / "data_batch_3.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    manifest = (place / MANIFEST).read_bytes()
    for _ in range(rounds):
        (place / MANIFEST).write_bytes(manifest)
        change = change_content(place / MANIFEST, random)
        assert isinstance(values_or_line(task, folder), UsageError), change


@pytest.mark.parametrize("name", ["MNIST/raw", "tacos"])
def test_real_files_are_verified_without_a_manifest(data_folder, tmp_path, name):
    """Files that were copied there by hand are compared with the published checksums."""
    shutil.copytree(data_folder / name, tmp_path / name)
    (tmp_path / name / MANIFEST).unlink(missing_ok=True)
    files = DataFiles(tmp_path / name, name)
    names = [path.name for path in (tmp_path / name).iterdir()]
    for each in names:
        files.read(each)
    assert str(files.summary()).startswith(f"{name}: verified (the published files); ")
    random = np.random.default_rng(0)
    for each in names:
        content = (tmp_path / name / each).read_bytes()
        place = int(random.integers(100, len(content)))
        (tmp_path / name / each).write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(UsageError, match=f"{each}: it differs from the published files"):
            files.read(each)
