"""Tasks with the data that people have: datasets, loaders, dict and nested batches, iterable and validation sets."""

import dataclasses
import itertools
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from lossaware.errors import UsageError
from lossaware.studies.specs.examples import moved, size_of
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.task import Data, InMemory, Task
from lossaware.studies.training import run as run_module
from lossaware.studies.training.run import run

SPEC = RunSpec(task="own", optimizer="sgd", lr=0.01, seed=3, epochs=2, batch_size=5)
X = torch.arange(12.0)[:, None]


class Dicts(Dataset):
    """Examples as dicts, the input nested."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"inputs": {"x": X[index]}, "y": X[index] * 2}


class Stream(IterableDataset):
    def __iter__(self):
        return ({"inputs": {"x": x}, "y": x * 2} for x in X)


@pytest.fixture
def records(monkeypatch):
    """Runs a task of this data; gives its records, and the inputs of each training batch."""

    def measured(data, **changes):
        batches = []

        def measure(model, batch):
            x, y = (batch["inputs"]["x"], batch["y"]) if isinstance(batch, dict) else batch
            if torch.is_grad_enabled():
                batches.append(x.flatten().tolist())
            return {"loss": (model(x / 12) - y).square().mean(), "largest": x.max()}

        task = Task("own", "", lambda: nn.Linear(1, 1), lambda folder: data, measure, "largest")
        monkeypatch.setattr(run_module, "load_task", lambda name, options: task)
        return list(run(dataclasses.replace(SPEC, **changes), None)), batches

    return measured


def loader(**more):
    return DataLoader(Dicts(), **{"batch_size": 5, "shuffle": True, **more})


@pytest.mark.parametrize("train", [Dicts(), TensorDataset(X, X), loader(), loader(generator=torch.Generator())])
def test_each_example_once_in_an_order_of_the_seed(records, train):
    data = Data(train=train, test=InMemory((X, X)))
    first, batches = records(data)
    epochs = [list(itertools.chain(*batches[:3])), list(itertools.chain(*batches[3:]))]
    assert [len(batch) for batch in batches] == [5, 5, 2] * 2
    assert sorted(epochs[0]) == sorted(epochs[1]) == X.flatten().tolist()
    assert epochs[0] != epochs[1] != sorted(epochs[1])
    repeated, repeated_batches = records(data)
    assert repeated_batches == batches  # also if the first run has changed the loader's state
    assert [r.test for r in repeated] == [r.test for r in first]
    assert records(data, lga=options())[1] == batches
    assert records(data, seed=4)[1] != batches


def test_a_loader_keeps_its_batches_and_its_sampler(records):
    dropping = Data(train=loader(drop_last=True), test=loader(batch_size=7, shuffle=False))
    epochs, batches = records(dropping, lga=options())
    assert [len(batch) for batch in batches] == [5, 5] * 2
    assert epochs[-1].lga is not None
    assert epochs[-1].lga["steps"] == 4
    weighted = WeightedRandomSampler([0.0] * 11 + [1.0], 10)
    assert records(Data(train=loader(sampler=weighted, shuffle=None), test=Dicts()))[1][0] == [11.0] * 5
    with pytest.raises(
        UsageError, match=r"batches of 5 examples, but the run has batches of 4: set Task\(batch_size=5\)"
    ):
        records(Data(train=loader(), test=Dicts()), batch_size=4)
    with pytest.raises(UsageError, match="a DataLoader has its own: DataLoader"):
        Data(train=loader(), test=Dicts(), collate=list)


def test_collate_makes_the_batches(records):
    def reversed_(examples):
        return {"inputs": {"x": torch.stack([e["inputs"]["x"] for e in examples])}, "y": torch.zeros(len(examples), 1)}

    epochs, _ = records(Data(train=Dicts(), test=Dicts(), collate=reversed_), lr=1e-9)
    assert epochs[0].test["loss"] < 5  # with torch's own, y reaches 22


def test_an_iterable_set(records):
    with pytest.raises(UsageError, match=r"has no length.*Data\(..., batches_per_epoch=100\)"):
        records(Data(train=Stream(), test=Stream()))
    epochs, batches = records(Data(train=Stream(), test=Stream(), batches_per_epoch=2), lga=options())
    assert batches == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] * 2
    assert epochs[0].test["largest"] == 11
    assert epochs[-1].lga is not None
    assert epochs[-1].lga["steps"] == 4
    with pytest.raises(UsageError, match="batches_per_epoch must be an integer of at least 1, got 0"):
        Data(train=Stream(), test=Stream(), batches_per_epoch=0)


def test_a_validation_set_is_measured_as_well(records):
    data = Data(train=Dicts(), test=InMemory((X[:6], X[:6])), validation=TensorDataset(X[:3], X[:3]))
    epochs, _ = records(data)
    assert [(r.test["largest"], r.test["validation_largest"]) for r in epochs] == [(5, 2), (5, 2)]
    assert "validation_loss" in epochs[0].test


@pytest.mark.parametrize("train", [3, "train", object()])
def test_an_invalid_set_is_one_line(train):
    task = Task("own", "", lambda: nn.Linear(1, 1), lambda folder: Data(train=train, test=Dicts()), lambda m, b: {})
    with pytest.raises(UsageError, match="a set of examples must be InMemory tensors, a dataset, a DataLoader"):
        task.load(None)


def test_a_batch_of_any_form_has_a_size_and_moves_to_a_device():
    class Pair(NamedTuple):
        x: torch.Tensor
        label: str

    batch = {"ids": [torch.ones(3, 2), (torch.tensor(1.0), "text")], "pair": Pair(torch.ones(4), "a")}
    assert size_of(batch) == 3
    on_meta = moved(batch, torch.device("meta"))
    assert on_meta["ids"][0].device.type == on_meta["ids"][1][0].device.type == on_meta["pair"].x.device.type == "meta"
    assert (on_meta["ids"][1][1], on_meta["pair"].label) == ("text", "a")
    with pytest.raises(UsageError, match="has no tensor whose length is its number of examples"):
        size_of({"loss": torch.tensor(1.0)})
