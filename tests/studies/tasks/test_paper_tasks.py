"""Every task of the paper trains: a few steps through `run`, on made files always, on the real ones where they are."""

import dataclasses
import math

import pytest
import torch

from lossaware.errors import UsageError
from lossaware.studies.data.augmentation import move_mirror_rotate
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.images import Images
from lossaware.studies.data.stand_in import make_stand_in
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.specs.tasks import load_task, tasks
from lossaware.studies.training import run as run_module
from lossaware.studies.training.run import run
from support import no_waiting

FOLDERS = {
    "cifar10": "cifar-10-batches-bin",
    "cifar100": "cifar-100-binary",
    "tinyimagenet": "tiny-imagenet-200",
    "segmentation": "bag_data",
    "autoencoder-mnist": "MNIST/raw",
    "autoencoder-cifar10": "cifar-10-batches-bin",
    "autoeval": "MNIST/raw",
    "grounding": "tacos",
}
MEASURES = {
    "cifar10": {"loss", "accuracy"},
    "cifar100": {"loss", "accuracy"},
    "tinyimagenet": {"loss", "accuracy"},
    "segmentation": {"loss", "accuracy", "iou"},
    "autoencoder-mnist": {"loss"},
    "autoencoder-cifar10": {"loss"},
    "autoeval": {"loss", "loss_cls", "loss_rot", "accuracy", "accuracy_rot"},
    "grounding": {"loss", "loss_span", "loss_highlight", "iou", "iou_50", "iou_70"},
}
# The protocol of the paper: epochs and examples per step.
PROTOCOL = {
    "cifar10": (100, 128),
    "cifar100": (100, 128),
    "tinyimagenet": (100, 16),
    "segmentation": (50, 8),
    "autoencoder-cifar10": (100, 16),
    "autoeval": (50, 64),
    "grounding": (50, 16),
}
# Standardisation of the images: the published statistics of each set, ImageNet's for bags, none for reconstructions.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tinyimagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
    "segmentation": IMAGENET,
    "autoencoder-mnist": ((0.0,), (1.0,)),
    "autoencoder-cifar10": ((0.0,), (1.0,)),
    "autoeval": ((0.1307,), (0.3081,)),
}


def spec(name, *, train=4, test=1, lga=None, **more):
    chosen = {"train_examples": train, "test_examples": test, **more}
    if name == "grounding":
        chosen["features"] = "stand-in"
    if name == "segmentation":
        chosen.setdefault("side", 64)
    return RunSpec(
        task=name, task_options=options(**chosen), optimizer="sgd", lr=1e-3, seed=1, epochs=2, batch_size=2, lga=lga
    )


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_run_of_made_data_without_and_with_lga(example_data, name):
    size = {"train": 2, "test": 1}
    plain = list(run(spec(name, **size), example_data))
    repeats = list(run(spec(name, **size), example_data))
    with_lga = list(run(spec(name, **size, lga=options(gamma2=1e-4, xi=0.01, eps=0.0)), example_data))
    assert [record.epoch for record in plain] == [1, 2]
    for record, repeated, aware in zip(plain, repeats, with_lga, strict=True):
        assert set(record.train) == set(record.test) == MEASURES[name]
        assert all(math.isfinite(value) for value in (*record.train.values(), *record.test.values()))
        assert (record.train, record.test) == (repeated.train, repeated.test)
        assert aware.lga is not None
    # The first step sees the same parameters, the second ones that LGA has pushed.
    assert plain[0].train == with_lga[0].train
    assert plain[1].train["loss"] != with_lga[1].train["loss"]


@pytest.mark.cuda
@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_cuda_a_step_does_not_synchronize(example_data, name):
    """Neither for augmentation, whose numbers are drawn on the CPU, nor for features that are gathered a batch."""
    chosen = dataclasses.replace(spec(name, train=2, lga=options(gamma2=1e-6)), device="cuda", batch_size=1)
    task = load_task(name, chosen.task_options)
    training = run_module._Training(chosen, task, task.data(example_data))
    batches = iter(training._batches)
    training._step(next(batches))
    with no_waiting():
        training._step(next(batches))


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_real_data_trains_where_it_is(data_folder, tmp_path, name):
    """After some steps on the same examples, the loss must be lower."""
    folder = data_folder
    if name == "grounding":
        folder = tmp_path
        (folder / "tacos").mkdir()
        for part in ("train", "val", "test"):
            (folder / "tacos" / f"{part}.json").write_bytes((data_folder / "tacos" / f"{part}.json").read_bytes())
        make_stand_in(DataFiles(folder / "tacos"), folder / "tacos" / "stand-in-features")
    count = 2 if name == "segmentation" else 4
    more = {"side": 224} if name == "segmentation" else {}
    task = load_task(name, spec(name, train=count, test=2, **more).task_options)
    data = task.data(folder)
    assert (len(data.train), len(data.test)) == (count, 2)
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    (batch,) = data.train.batches(4, None)
    losses = []
    for _ in range(4):
        loss = task.measure(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def test_every_task_of_the_paper_is_listed():
    assert set(FOLDERS) | {"mnist"} <= set(tasks())


@pytest.mark.parametrize("name", sorted(PROTOCOL))
def test_the_papers_protocol_is_the_default(name):
    task = load_task(name)
    assert (task.epochs, task.batch_size) == PROTOCOL[name]


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_missing_data_is_one_line_with_a_remedy(tmp_path, name):
    task = load_task(name)
    place = FOLDERS[name]
    with pytest.raises(UsageError, match=f"task '{name}' needs --data DIR, with {place} in DIR; ") as nothing:
        task.data(None)
    with pytest.raises(UsageError, match=f"there is no folder .*{place}, which task '{name}' reads; ") as missing:
        task.data(tmp_path)
    for error in (nothing, missing):
        assert "\n" not in str(error.value)
        assert "lossaware data get" in str(error.value) or "it holds" in str(error.value)


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_parts_have_the_requested_size_and_at_most_the_whole(example_data, name):
    data = load_task(name, spec(name, train=2, test=1).task_options).data(example_data)
    assert (len(data.train), len(data.test)) == (2, 1)
    with pytest.raises(UsageError, match="train_examples must be at most"):
        load_task(name, spec(name, train=999).task_options).data(example_data)
    with pytest.raises(UsageError, match=f"task '{name}': train_examples must be an integer of at least 1, got 0"):
        load_task(name, {"train_examples": 0})


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("cifar10", {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ("cifar100", {"augment": "no"}, "augment must be true or false, got 'no'"),
        ("autoeval", {"pad": 1}, "pad must be 0 or 2, got 1"),
        ("autoencoder_mnist", {}, "did you mean autoencoder-mnist"),
    ],
)
def test_mistakes_in_options_are_errors(name, option, message):
    with pytest.raises(UsageError, match=message):
        load_task(name, option)


def test_cifar100_is_augmented_by_default(example_data):
    augmented = load_task("cifar100").data(example_data)
    assert augmented.augment is not None
    assert load_task("cifar100", {"augment": False}).data(example_data).augment is None
    (batch,) = augmented.train.batches(8, None)
    changed = augmented.augment(batch, torch.Generator().manual_seed(0))
    assert not torch.equal(changed[0], batch[0])
    expected = move_mirror_rotate(4, 15.0, *STATISTICS["cifar100"])(batch, torch.Generator().manual_seed(0))
    assert torch.equal(changed[0], expected[0])
    assert load_task("cifar10").data(example_data).augment is None


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_both_sets_are_standardised_with_the_statistics_of_the_training_images(example_data, name):
    data = load_task(name, {"train_examples": 1}).data(example_data)
    images = [examples for examples in (data.train, data.test) if isinstance(examples, Images)]
    assert [(examples.mean, examples.std) for examples in images] == [STATISTICS[name]] * 2


def test_outputs_of_autoencoders_are_from_0_to_1(example_data):
    for name in ("autoencoder-mnist", "autoencoder-cifar10"):
        (batch,) = load_task(name, {"train_examples": 8}).data(example_data).train.batches(8, None)
        assert batch[0].min() >= 0
        assert 0.9 < batch[0].max() <= 1


def test_autoeval_trains_on_random_turns_and_tests_on_all(example_data):
    task = load_task("autoeval", {"train_examples": 6})
    data = task.data(example_data)
    (batch,) = data.train.batches(6, None)
    assert len(batch) == 2
    assert len(data.augment(batch, torch.Generator().manual_seed(0))) == 3
