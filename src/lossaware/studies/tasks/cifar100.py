"""CIFAR-100 with ResNet-50 and augmentation (Tables 1, 3, 6 and 7)."""

from functools import partial
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.data.augmentation import move_mirror_rotate
from lossaware.studies.data.cifar import MEAN_100, PLACE_100, STD_100, read_cifar100
from lossaware.studies.data.folder import downloadable, require
from lossaware.studies.data.images import Images
from lossaware.studies.data.subset import check_counts, part_of
from lossaware.studies.models.classification import classification
from lossaware.studies.models.resnet import resnet50
from lossaware.studies.specs.task import Data, Task

SUMMARY = "Photographs of 100 classes, 60,000 of 32 x 32, with ResNet-50 (reads cifar-100-binary in --data)"
CLASSES = 100
PAD, DEGREES = 4, 15.0


def build(train_examples: int | None = None, test_examples: int | None = None, augment: bool = True) -> Task:
    """CIFAR-100 with ResNet-50, whose stem is a 3 x 3 convolution.

    With SGD the paper's test accuracy exceeds its train accuracy, so training images are shifted by up to 4 pixels,
    mirrored with probability 0.5 and rotated by up to 15 degrees.

    Args:
        train_examples: Number of training images, of 50,000, always the same ones; by default all.
        test_examples: Number of test images, of 10,000, in the same way.
        augment: Whether the training images are augmented.
    """
    check_counts("cifar100", train_examples=train_examples, test_examples=test_examples)
    if not isinstance(augment, bool):
        raise UsageError(f"task 'cifar100': augment must be true or false, got {augment!r}")

    def load(folder: Path | None) -> Data:
        train, test = read_cifar100(require(folder, PLACE_100, "cifar100", downloadable("cifar100")))
        return Data(
            train=Images(part_of(train, train_examples, "train_examples"), MEAN_100, STD_100),
            test=Images(part_of(test, test_examples, "test_examples"), MEAN_100, STD_100),
            augment=move_mirror_rotate(PAD, DEGREES, MEAN_100, STD_100) if augment else None,
        )

    return Task(
        name="cifar100",
        summary=SUMMARY,
        model=partial(resnet50, 100, stem="3x3"),
        data=load,
        measure=classification,
        epochs=100,
        batch_size=128,
        test_batch_size=100,
        gamma2=1e-9,
    )
