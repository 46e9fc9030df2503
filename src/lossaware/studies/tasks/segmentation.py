"""Segmentation of bags in photographs (Table 9)."""

from functools import partial
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.data.bags import PLACE, SIDE, list_bags, read_bags, split_bags
from lossaware.studies.data.folder import require
from lossaware.studies.data.images import Images
from lossaware.studies.data.sets import DATA_SETS
from lossaware.studies.data.subset import check_counts, spread
from lossaware.studies.models.segmentation import encoder_decoder, segmentation
from lossaware.studies.specs.task import Data, Task

SUMMARY = "Bags in photographs of 224 x 224, pixel by pixel, with an encoder and a decoder (reads bag_data in --data)"
SOURCE = f"it holds {DATA_SETS['segmentation'].source}"
# Of ImageNet, as in the code that the paper cites.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(
    train_examples: int | None = None, test_examples: int | None = None, side: int = SIDE, width: int = 64
) -> Task:
    """Segmentation of bags. The paper reports the training loss. There is no official test set, see `split_bags`.

    Args:
        train_examples: Number of training images, of nine tenths of all, always the same ones; by default all.
        test_examples: Number of test images, of one tenth of all, in the same way.
        side: Width and height to which images are resized, a multiple of 32; 224 in the paper.
        width: Channels of the network's first stage, a multiple of 4; the others are proportional. 64 in the paper.
    """
    check_counts("segmentation", train_examples=train_examples, test_examples=test_examples)
    for option, value, unit in (("side", side, 32), ("width", width, 4)):
        if type(value) is not int or value < unit or value % unit:
            raise UsageError(f"task 'segmentation': {option} must be a multiple of {unit} above 0, got {value!r}")

    def load(folder: Path | None) -> Data:
        files = require(folder, PLACE, "segmentation", SOURCE)
        train, test = split_bags(files, list_bags(files))
        sets = []
        for pairs, count, option in ((train, train_examples, "train_examples"), (test, test_examples, "test_examples")):
            chosen = [pairs[index] for index in spread(len(pairs), count, option).tolist()]
            sets.append(Images(read_bags(files, chosen, side), MEAN, STD))
        return Data(train=sets[0], test=sets[1])

    return Task(
        name="segmentation",
        summary=SUMMARY,
        model=partial(encoder_decoder, width),
        data=load,
        measure=segmentation,
        score="iou",
        epochs=50,
        batch_size=8,
        test_batch_size=16,
    )
