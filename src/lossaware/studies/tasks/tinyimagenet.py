"""TinyImageNet with ResNet-50 (Table 4)."""

from functools import partial
from pathlib import Path

from lossaware.studies.data.folder import downloadable, require
from lossaware.studies.data.images import Images
from lossaware.studies.data.subset import check_counts
from lossaware.studies.data.tiny_imagenet import (
    MEAN,
    PLACE,
    STD,
    list_train,
    list_validation,
    read_classes,
    read_images,
)
from lossaware.studies.models.classification import classification
from lossaware.studies.models.resnet import resnet50
from lossaware.studies.specs.task import Data, Task

SUMMARY = "Photographs of 200 classes, 64 x 64, with ResNet-50 (reads tiny-imagenet-200 in --data)"
CLASSES = 200


def build(train_examples: int | None = None, test_examples: int | None = None) -> Task:
    """TinyImageNet with ResNet-50, tested on the validation images. No augmentation: the paper does not mention any.

    Args:
        train_examples: Number of training images, always the same ones; by default all (the published set has 500 per
            class).
        test_examples: Number of validation images, in the same way (the published set has 50 per class).
    """
    check_counts("tinyimagenet", train_examples=train_examples, test_examples=test_examples)

    def load(folder: Path | None) -> Data:
        files = require(folder, PLACE, "tinyimagenet", downloadable("tinyimagenet"))
        classes = read_classes(files)
        train = read_images(files, list_train(files, classes), train_examples, "train_examples")
        test = read_images(files, list_validation(files, classes), test_examples, "test_examples")
        return Data(train=Images(train, MEAN, STD), test=Images(test, MEAN, STD))

    return Task(
        name="tinyimagenet",
        summary=SUMMARY,
        model=partial(resnet50, CLASSES),
        data=load,
        measure=classification,
        epochs=100,
        batch_size=16,
        test_batch_size=250,
        gamma2=1e-10,
    )
