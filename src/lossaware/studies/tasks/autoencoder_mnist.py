"""An autoencoder on MNIST (Table 12)."""

from pathlib import Path

from lossaware.studies.data.folder import downloadable, require
from lossaware.studies.data.images import Images
from lossaware.studies.data.mnist import PLACE, read_mnist
from lossaware.studies.data.subset import check_counts, part_of
from lossaware.studies.models.autoencoder import dense_autoencoder, reconstruction
from lossaware.studies.specs.task import Data, Task

SUMMARY = "Handwritten digits reconstructed by a fully connected autoencoder (reads MNIST/raw in --data)"


def build(train_examples: int | None = None, test_examples: int | None = None) -> Task:
    """MNIST with an autoencoder 784-256-64-256-784. The paper does not state network, epochs or batch size.

    Args:
        train_examples: Number of training images, of 60,000, always the same ones; by default all.
        test_examples: Number of test images, of 10,000, in the same way.
    """
    check_counts("autoencoder-mnist", train_examples=train_examples, test_examples=test_examples)

    def load(folder: Path | None) -> Data:
        files = require(folder, PLACE, "autoencoder-mnist", downloadable("mnist"))
        return Data(
            train=Images(part_of(read_mnist(files, "train"), train_examples, "train_examples")),
            test=Images(part_of(read_mnist(files, "t10k"), test_examples, "test_examples")),
        )

    return Task(
        name="autoencoder-mnist",
        summary=SUMMARY,
        model=dense_autoencoder,
        data=load,
        measure=reconstruction,
        score="loss",
        higher_is_better=False,
        percent=False,
        epochs=20,
        batch_size=64,
    )
