"""CIFAR-10 with DenseNet-40-12, without augmentation (Tables 1, 3, 6, 7, 8 and 13)."""

from functools import partial
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.data.cifar import MEAN_10, PLACE_10, STD_10, read_cifar10
from lossaware.studies.data.folder import downloadable, require
from lossaware.studies.data.images import Images
from lossaware.studies.data.subset import check_counts, part_of
from lossaware.studies.models.classification import classification
from lossaware.studies.models.densenet import densenet
from lossaware.studies.specs.task import Data, Task

SUMMARY = "Photographs of 10 classes, 60,000 of 32 x 32, with DenseNet-40-12 (reads cifar-10-batches-bin in --data)"
CLASSES = 10


def build(
    train_examples: int | None = None,
    test_examples: int | None = None,
    dropout: float = 0.0,
    depth: int = 40,
    growth: int = 12,
) -> Task:
    """CIFAR-10 with DenseNet-40-12. No augmentation: the paper's train accuracy exceeds its test accuracy.

    Args:
        train_examples: Number of training images, of 50,000, always the same ones; by default all.
        test_examples: Number of test images, of 10,000, in the same way.
        dropout: Dropout probability of a dense layer's outputs, in [0, 1).
        depth: Layers with weights, 4 more than a multiple of 3; the paper's network has 40.
        growth: Channels that each dense layer adds, at least 1; the paper's network has 12.
    """
    check_counts("cifar10", train_examples=train_examples, test_examples=test_examples)
    if not 0 <= dropout < 1:
        raise UsageError(f"task 'cifar10': dropout must be in [0, 1), got {dropout!r}")
    if type(depth) is not int or depth < 7 or (depth - 4) % 3:
        raise UsageError(f"task 'cifar10': depth must be 4 more than a multiple of 3, and at least 7, got {depth!r}")
    if type(growth) is not int or growth < 1:
        raise UsageError(f"task 'cifar10': growth must be an integer of at least 1, got {growth!r}")

    def load(folder: Path | None) -> Data:
        train, test = read_cifar10(require(folder, PLACE_10, "cifar10", downloadable("cifar10")))
        return Data(
            train=Images(part_of(train, train_examples, "train_examples"), MEAN_10, STD_10),
            test=Images(part_of(test, test_examples, "test_examples"), MEAN_10, STD_10),
        )

    return Task(
        name="cifar10",
        summary=SUMMARY,
        model=partial(densenet, dropout=dropout, depth=depth, growth=growth),
        data=load,
        measure=classification,
        epochs=100,
        batch_size=128,
        test_batch_size=200,
    )
