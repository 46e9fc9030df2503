"""Tasks: the built-in ones, and a user's own with every mistake that one can make."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lossaware.errors import UsageError
from lossaware.studies.data.checksums import record_files
from lossaware.studies.data.sets import DATA_SETS
from lossaware.studies.models.lenet import lenet5
from lossaware.studies.specs.data_folder import DataFolder
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.specs.tasks import load_task, tasks
from lossaware.studies.specs.user_code import source_digest
from lossaware.studies.training.run import run
from support.examples import tensors_of

GOOD = """
import torch
from lossaware.studies.task import Data, InMemory, Task
from lossaware.studies.models.classification import classification

def data(folder):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator)
    examples = InMemory((x, (x[:, 0] > 0).long()))
    return Data(train=examples, test=examples)

def build(width: int = 2) -> Task:
    return Task("mine", "My own.", lambda: torch.nn.Linear(3, width), data, classification)

task = build()
"""


def test_every_built_in_task_is_listed_and_loads():
    listed = tasks()
    assert {"digits", "mnist"} <= set(listed)
    for name, summary in listed.items():
        task = load_task(name)
        assert (task.name, task.summary) == (name, summary)
        assert summary
        assert "\n" not in summary


def test_listing_imports_no_task():
    code = "import sys; from lossaware.studies.specs.tasks import tasks; tasks(); assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def plain_lenet(pad=2, activation=nn.ReLU, pooling=nn.MaxPool2d, between=None, last=()):
    """LeNet-5 as most write it: each stage a convolution, an activation, a pooling."""
    between = between or activation
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=pad), activation(), pooling(2)),
        *(nn.Conv2d(6, 16, 5), activation(), pooling(2)),
        nn.Flatten(),
        *(nn.Linear(16 * ((28 + 2 * pad - 12) // 4) ** 2, 120), between(), nn.Linear(120, 84), between()),
        *(nn.Linear(84, 10), *last),
    )


@pytest.mark.parametrize(
    ("chosen", "plain"),
    [
        ({}, {}),
        ({"pad": 0}, {"pad": 0}),
        ({"activation": "tanh"}, {"activation": nn.Tanh}),
        ({"activation": "sigmoid", "pad": 0}, {"activation": nn.Sigmoid, "pad": 0}),
        ({"pooling": "average"}, {"pooling": nn.AvgPool2d}),
        ({"head": "linear"}, {"between": nn.Identity}),
        ({"head": "softmax"}, {"last": (nn.Softmax(dim=1),)}),
    ],
)
def test_lenet_follows_its_options(chosen, plain):
    """Same initialisation, outputs and gradients, bit for bit, as layer by layer in the usual order."""
    torch.manual_seed(0)
    ours = load_task("mnist", options(**chosen)).model()
    torch.manual_seed(0)
    theirs = plain_lenet(**plain).to(memory_format=torch.channels_last)
    images, labels = torch.randn(16, 1, 28, 28), torch.randint(10, (16,))
    for net in (ours, theirs):
        functional.cross_entropy(net(images), labels).backward()
    assert torch.equal(ours(images), theirs(images))
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_the_default_lenet_has_the_names_that_stored_weights_have():
    assert {name.split(".")[0] for name in load_task("mnist").model().state_dict()} == {"0", "3", "7", "9", "11"}


@pytest.mark.parametrize(("pad", "parameters"), [(2, 61_706), (0, 44_426)])
def test_lenet_has_the_known_number_of_parameters(pad, parameters):
    model = load_task("mnist", options(pad=pad)).model()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_lenet_takes_no_other_padding():
    with pytest.raises(ValueError, match="pad must be 0 or 2, got 1"):
        lenet5(1)


def test_digits_do_not_depend_on_the_seed():
    task = load_task("digits")
    torch.manual_seed(1)
    first = task.data(None)
    torch.manual_seed(2)
    second = task.data(None)
    assert (len(first.train), len(first.test)) == (1438, 359)
    for one, two in ((first.train, second.train), (first.test, second.test)):
        assert all(map(torch.equal, tensors_of(one), tensors_of(two)))
    pixels, labels = tensors_of(first.train)
    assert abs(float(pixels.mean())) < 1e-5
    assert abs(float(pixels.std()) - 1) < 1e-5
    assert labels.unique().tolist() == list(range(10))


def load_without_verifying(task, folder):
    return task.load(DataFolder(folder, verify=False))


@pytest.mark.parametrize(
    ("inputs", "scaled"),
    [
        (None, lambda value: (value / 255 - 0.1307) / 0.3081),
        ("standardized", lambda value: (value / 255 - 0.1307) / 0.3081),
        ("unit", lambda value: value / 255),
        ("symmetric", lambda value: (value / 255 - 0.5) / 0.5),
    ],
)
def test_mnist_values(tmp_path, write_idx, inputs, scaled):
    """Standardised by default with the training set's mean and deviation; labels belong to their images."""
    raw = tmp_path / "MNIST" / "raw"
    images = np.stack([np.full((28, 28), value, np.uint8) for value in (0, 128, 255)])
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.array([3, 0, 9], np.uint8))
    record_files(DATA_SETS["mnist"], tmp_path)
    data = load_task("mnist", {"inputs": inputs} if inputs else {}).data(tmp_path)
    inputs_read, labels = tensors_of(data.train)
    assert inputs_read.shape == (3, 1, 28, 28)
    for image, value in zip(inputs_read, (0, 128, 255), strict=True):
        torch.testing.assert_close(image, torch.full((1, 28, 28), scaled(value)))
    assert labels.tolist() == [3, 0, 9]


def test_mnist_says_where_its_data_comes_from(tmp_path):
    task = load_task("mnist")
    with pytest.raises(UsageError, match=r"--data DIR.*MNIST/raw.*four IDX files.*lossaware data get mnist"):
        task.data(None)
    with pytest.raises(UsageError, match=r"there is no folder .*MNIST/raw.*four IDX files.*lossaware data get mnist"):
        task.data(tmp_path / "elsewhere")


def test_mistakes_in_files_of_mnist_are_errors(tiny_mnist, write_idx):
    """Files that were changed on purpose must still fit together."""
    load = partial(load_without_verifying, load_task("mnist"))
    raw = tiny_mnist / "MNIST" / "raw"
    labels = raw / "train-labels-idx1-ubyte"
    write_idx(labels, np.full(200, 10, np.uint8))
    with pytest.raises(UsageError, match="train-labels-idx1-ubyte: label 10; labels are 0 to 9"):
        load(tiny_mnist)
    write_idx(labels, np.zeros(199, np.uint8))
    with pytest.raises(UsageError, match="train-labels-idx1-ubyte: dimensions 199; expected 200"):
        load(tiny_mnist)
    labels.unlink()
    with pytest.raises(UsageError, match=r"neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte\.gz"):
        load(tiny_mnist)


@pytest.fixture
def my_task(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text, name="my_task.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_a_task_from_a_file_or_a_module(my_task, monkeypatch, tmp_path):
    path = my_task(GOOD)
    assert load_task(f"{path}:build", options(width=5)).model().out_features == 5
    assert load_task(f"{path}:task").name == "mine"
    my_task(GOOD, "my_package_task.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_task("my_package_task:build").name == "mine"


def test_a_task_may_import_modules_from_its_folder(my_task):
    my_task("WIDTH = 7", "beside_my_task.py")
    path = my_task("from beside_my_task import WIDTH\n" + GOOD.replace("width: int = 2", "width: int = WIDTH"))
    assert load_task(f"{path}:build").model().out_features == 7


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("digit", {}, "unknown task 'digit'; did you mean digits?"),
        ("zzz", {}, "unknown task 'zzz'; known: .*digits.*mnist"),
        ("", {}, "unknown task ''"),
        ("digits", {"hiden": 3}, "task 'digits' has no option 'hiden'; did you mean hidden?"),
        ("digits", {"hidden": 0}, "hidden must be an integer of at least 1, got 0"),
        ("mnist", {"pad": 3}, "task 'mnist': pad must be 0 or 2, got 3"),
        ("mnist", {"pad": 2.0}, "pad must be 0 or 2, got 2.0"),
        ("mnist", {"pad": False}, "pad must be 0 or 2, got False"),
        ("mnist", {"head": "lin"}, "task 'mnist': head must be activated or linear or softmax, got 'lin'"),
        ("mnist", {"pooling": "mean"}, "pooling must be max or average, got 'mean'"),
        ("mnist", {"activation": 1}, "activation must be relu or tanh or sigmoid, got 1"),
        ("mnist", {"inputs": "raw"}, "task 'mnist': inputs must be standardized or unit or symmetric, got 'raw'"),
        ("mnist", {"padding": 0}, "has no option 'padding'; did you mean pad"),
        ("my_task.py", {}, "name the function of the file .*, such as my_task.py:train"),
        ("nowhere/my_task.py:build", {}, "there is no file nowhere/my_task.py"),
        ("no_such_package.tasks:build", {}, "there is no module 'no_such_package'"),
        ("lossaware.studies.specs.tasks:bild", {}, "has no 'bild'"),
    ],
)
def test_mistakes_in_a_name_or_an_option(name, chosen, message):
    with pytest.raises(UsageError, match=message) as error:
        load_task(name, chosen)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "attribute", "chosen", "message"),
    [
        ("def build(:\n", "build", {}, r"my_task\.py, line 1: "),
        ("\nimport no_such_module\n", "build", {}, r"No module named 'no_such_module' \(.*my_task\.py, line 2\)"),
        ("\n\n1 / 0\n", "build", {}, r"ZeroDivisionError: division by zero \(.*my_task\.py, line 3\)"),
        ("raise SystemExit(3)", "build", {}, r"cannot be loaded: SystemExit: 3"),
        ("open('no such data')", "build", {}, r"cannot be loaded: FileNotFoundError.*no such data.*line 1"),
        (GOOD, "biuld", {}, r"has no 'biuld'; did you mean build\?"),
        ("build = 3", "build", {}, "neither a Task nor a function that returns one, but int"),
        ("def build(): pass", "build", {}, "must return a lossaware.studies.task.Task, got None"),
        ("def build():\n    return [][1]", "build", {}, r"cannot be built: IndexError: .* \(.*my_task\.py, line 2\)"),
        ("def build():\n    raise ValueError('no\\ngood')", "build", {}, r"ValueError: no \(.*my_task\.py, line 2\)"),
        (GOOD, "build", {"widht": 3}, r"has no option 'widht'; did you mean width\?"),
        (GOOD.replace(" = 2", ""), "build", {}, r"is a training function \(its argument is a trial\)"),
        (GOOD, "task", {"width": 3}, "is a Task, not a function: it does not take options, got width"),
    ],
)
def test_mistakes_in_a_task_file(my_task, text, attribute, chosen, message):
    path = my_task(text.replace("task = build()", "") if "= 2" not in text else text)
    with pytest.raises(UsageError, match=message) as error:
        load_task(f"{path}:{attribute}", chosen)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("lambda model, batch: {'accuracy': batch[0].mean()}", "measure must return 'loss', got accuracy"),
        ("lambda model, batch: {'loss': model(batch[0]).sum()}", "measure must return 'accuracy', got loss"),
        ("lambda model, batch: model(batch[0]).sum()", "measure must return tensors by name, got Tensor"),
        (
            "lambda model, batch: {'loss': model(batch[0]), 'accuracy': batch[0].mean()}",
            r"one number for 'loss', got a tensor of shape \(10, 2\)",
        ),
        (
            "lambda model, batch: {'loss': model(batch[0]).sum(), 'accuracy': 0.5}",
            "one number for 'accuracy', got float",
        ),
        (
            "lambda model, batch: {'loss': model(batch[0]).sum().detach(), 'accuracy': batch[0].mean()}",
            "loss that has no gradient",
        ),
    ],
)
def test_mistakes_in_measures(my_task, measure, message):
    path = my_task(GOOD.replace("data, classification)", f"data, {measure})"))
    spec = RunSpec(task=f"{path}:build", optimizer="sgd", lr=0.1, seed=0, epochs=1, batch_size=10)
    with pytest.raises(UsageError, match=message):
        list(run(spec, None))


@pytest.mark.parametrize(("empty", "message"), [("train", "its training set"), ("test", "its test set")])
def test_a_set_without_examples_is_an_error(my_task, empty, message):
    text = GOOD.replace(
        "Data(train=examples, test=examples)", f"replace(Data(examples, examples), {empty}=InMemory((x[:0],)))"
    )
    path = my_task("from dataclasses import replace\n" + text)
    with pytest.raises(UsageError, match=f"task 'mine': {message} is empty"):
        load_task(f"{path}:build").load(None)


def test_the_digest_of_a_task_follows_its_file(my_task):
    path = my_task(GOOD)
    before = source_digest([f"{path}:build"])
    assert before is not None
    assert before == source_digest([f"{path}:task"])
    my_task(GOOD + "# changed\n")
    assert source_digest([f"{path}:build"]) != before
    assert source_digest([]) is None
    assert source_digest(["no_such_package.tasks:build"]) is None
    assert source_digest(["lossaware.studies.tasks.digits:build"]) is not None
