"""Classes and rotations of MNIST's digits, learned together (Table 11)."""

from functools import partial
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.data.folder import downloadable, require
from lossaware.studies.data.images import Images
from lossaware.studies.data.mnist import MEAN, PLACE, STD, read_mnist
from lossaware.studies.data.subset import check_counts, part_of
from lossaware.studies.models.autoeval import AutoEval, autoeval, turn_at_random
from lossaware.studies.specs.task import Data, Task

SUMMARY = "Handwritten digits and their rotations, with LeNet-5 and two heads (reads MNIST/raw in --data)"


def build(train_examples: int | None = None, test_examples: int | None = None, pad: int = 2) -> Task:
    """MNIST with LeNet-5, one head for the class and one for the rotation; their losses are added.

    Args:
        train_examples: Number of training images, of 60,000, always the same ones; by default all.
        test_examples: Number of test images, of 10,000, in the same way.
        pad: Zeros on each side of the image, 2 or 0.
    """
    check_counts("autoeval", train_examples=train_examples, test_examples=test_examples)
    if pad not in (0, 2):
        raise UsageError(f"task 'autoeval': pad must be 0 or 2, got {pad!r}")

    def load(folder: Path | None) -> Data:
        files = require(folder, PLACE, "autoeval", downloadable("mnist"))
        return Data(
            train=Images(part_of(read_mnist(files, "train"), train_examples, "train_examples"), MEAN, STD),
            test=Images(part_of(read_mnist(files, "t10k"), test_examples, "test_examples"), MEAN, STD),
            augment=turn_at_random,
        )

    return Task(
        name="autoeval",
        summary=SUMMARY,
        model=partial(AutoEval, pad),
        data=load,
        measure=autoeval,
        epochs=50,
        batch_size=64,
    )
