"""Localisation of the moment in a cooking video that a sentence describes (Table 10)."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.folder import require
from lossaware.studies.data.subset import check_counts, part_of
from lossaware.studies.data.tacos import PLACE, POSITIONS, STAND_IN_MARK, WORDS, Moments, read_moments
from lossaware.studies.models.vslnet import VSLNet, grounding
from lossaware.studies.specs.task import Data, InMemory, Task

SUMMARY = "Moments in cooking videos (TACoS) described by a sentence, with VSLNet (reads tacos in --data)"
SOURCE = "it holds train.json and test.json as https://github.com/26hzhang/VSLNet has them"
FEATURES = {"real": "features", "stand-in": "stand-in-features"}


def build(features: str = "real", train_examples: int | None = None, test_examples: int | None = None) -> Task:
    """TACoS with VSLNet (Zhang et al., 2020). Word vectors are initialised at random and learned.

    Args:
        features: ``"real"`` reads one ``.npy`` (frames x 1024) per video from ``tacos/features``. ``"stand-in"`` reads
            ``tacos/stand-in-features``, made by `lossaware data stand-in tacos`; name and summary of the task and the
            options of each run then contain it.
        train_examples: Number of training sentences, of 9,790, always the same ones; by default all.
        test_examples: Number of test sentences, of 4,001, in the same way.
    """
    check_counts("grounding", train_examples=train_examples, test_examples=test_examples)
    if features not in FEATURES:
        raise UsageError(f"task 'grounding': features must be {' or '.join(FEATURES)}, got {features!r}")
    stand_in = features == "stand-in"

    def load(folder: Path | None) -> Data:
        files = require(folder, PLACE, "grounding", SOURCE)
        video_features = _features(files.path(FEATURES[features]), stand_in)
        train, numbers = read_moments(files, video_features, "train")
        test, _ = read_moments(files, video_features, "test", numbers)
        return Data(
            train=_part(train, train_examples, "train_examples"), test=_part(test, test_examples, "test_examples")
        )

    return Task(
        name="grounding with stand-in features" if stand_in else "grounding",
        summary=f"Stand-in features, not real ones: {SUMMARY}" if stand_in else SUMMARY,
        model=partial(VSLNet, words=WORDS, positions=POSITIONS),
        data=load,
        measure=grounding,
        score="iou",
        epochs=50,
        batch_size=16,
        test_batch_size=100,
    )


def _features(folder: Path, stand_in: bool) -> DataFiles:
    if not folder.is_dir():
        source = "`lossaware data stand-in tacos --data DIR` makes it"
        if not stand_in:
            source = (
                f"put one .npy (frames x 1024) per video there, or {source[:-3]} stand-ins for --set features=stand-in"
            )
        raise UsageError(f"there is no folder {folder}; {source}")
    if (folder / STAND_IN_MARK).exists() != stand_in:
        kind = "must not" if not stand_in else "must"
        raise UsageError(f"{folder} {kind} be stand-in features ({STAND_IN_MARK} marks them)")
    return DataFiles(folder, f"{PLACE}/{folder.name}")


def _part(moments: Moments, count: int | None, option: str) -> Moments:
    return replace(moments, queries=InMemory(part_of(moments.queries.tensors, count, option)))
