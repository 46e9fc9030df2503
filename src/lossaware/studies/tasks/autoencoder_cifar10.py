"""An autoencoder on CIFAR-10 (Table 12)."""

from pathlib import Path

from lossaware.studies.data.cifar import PLACE_10, read_cifar10
from lossaware.studies.data.folder import downloadable, require
from lossaware.studies.data.images import Images
from lossaware.studies.data.subset import check_counts, part_of
from lossaware.studies.models.autoencoder import convolutional_autoencoder, reconstruction
from lossaware.studies.specs.task import Data, Task

SUMMARY = "Photographs reconstructed by a convolutional autoencoder (reads cifar-10-batches-bin in --data)"


def build(train_examples: int | None = None, test_examples: int | None = None) -> Task:
    """CIFAR-10 with a convolutional autoencoder 3-12-24-48. The epochs are from the code that the paper cites.

    Args:
        train_examples: Number of training images, of 50,000, always the same ones; by default all.
        test_examples: Number of test images, of 10,000, in the same way.
    """
    check_counts("autoencoder-cifar10", train_examples=train_examples, test_examples=test_examples)

    def load(folder: Path | None) -> Data:
        train, test = read_cifar10(require(folder, PLACE_10, "autoencoder-cifar10", downloadable("cifar10")))
        return Data(
            train=Images(part_of(train, train_examples, "train_examples")),
            test=Images(part_of(test, test_examples, "test_examples")),
        )

    return Task(
        name="autoencoder-cifar10",
        summary=SUMMARY,
        model=convolutional_autoencoder,
        data=load,
        measure=reconstruction,
        score="loss",
        higher_is_better=False,
        percent=False,
        epochs=100,
        batch_size=16,
    )
