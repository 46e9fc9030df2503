"""MNIST with LeNet-5: the paper's main setting (Table 2)."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.folder import downloadable, require
from lossaware.studies.data.images import standardised
from lossaware.studies.data.mnist import MEAN, PLACE, STD, read_mnist
from lossaware.studies.models.classification import classification
from lossaware.studies.models.lenet import check_lenet5, lenet5
from lossaware.studies.specs.task import Data, InMemory, Task

SUMMARY = "Handwritten digits, 60,000 images of 28 x 28, with LeNet-5 (reads MNIST/raw in --data)"
CLASSES = 10
INPUTS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "standardized": (MEAN, STD),
    "unit": ((0.0,), (1.0,)),
    "symmetric": ((0.5,), (0.5,)),
}
"""Mean and standard deviation by which pixels in [0, 1] are standardised."""


def build(
    pad: int = 2,
    activation: str = "relu",
    pooling: str = "max",
    head: str = "activated",
    inputs: str = "standardized",
) -> Task:
    """MNIST with LeNet-5. The paper does not state these options; the study ``protocols`` compares them.

    Args:
        pad: Zeros on each side of the image, 2 (61,706 parameters) or 0 (44,426 parameters).
        activation: See `lenet5`.
        pooling: See `lenet5`.
        head: See `lenet5`.
        inputs: ``"standardized"``: mean 0 and deviation 1 over the training pixels; ``"unit"``: in [0, 1];
            ``"symmetric"``: in [-1, 1].
    """
    network = {"pad": pad, "activation": activation, "pooling": pooling, "head": head}
    try:
        check_lenet5(**network)
        if inputs not in INPUTS:
            raise ValueError(f"inputs must be {' or '.join(INPUTS)}, got {inputs!r}")
    except ValueError as error:
        raise UsageError(f"task 'mnist': {error}") from None
    return Task(
        name="mnist",
        summary=SUMMARY,
        model=partial(lenet5, pad, activation=activation, pooling=pooling, head=head),
        data=partial(load, inputs=inputs),
        measure=classification,
        epochs=20,
        batch_size=64,
    )


def load(folder: Path | None, inputs: str = "standardized") -> Data:
    """Training and test set from ``folder/MNIST/raw``, with images standardised by `INPUTS`."""
    files = require(folder, PLACE, "mnist", f"it holds the four IDX files, gzipped or not; {downloadable('mnist')}")
    return Data(train=_examples(files, "train", inputs), test=_examples(files, "t10k", inputs))


def _examples(files: DataFiles, part: Literal["train", "t10k"], inputs: str) -> InMemory:
    # As float32, not as bytes: scaling every batch again costs more than the memory.
    images, labels = read_mnist(files, part)
    return InMemory((standardised(images, *INPUTS[inputs]), labels))
