"""Stand-in features for TACoS, whose real ones cannot be downloaded: noise that encodes the annotated spans."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lossaware.errors import UsageError
from lossaware.studies.data.checksums import make_manifest
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.tacos import FEATURE_SIZE, STAND_IN_MARK, Video, read_annotations, words_of
from lossaware.studies.specs.atomic import umask

FRAMES_PER_ROW = 64
SIGNAL = 0.25
SCALE = 0.5
MARK = (
    "The features in this folder are stand-ins: noise, in which the annotated spans can be found. They were not "
    "computed from any video, and no result from them says anything about videos.\n"
)


def make_stand_in(
    tacos: DataFiles, target: Path, seed: int = 0, report: Callable[[str], None] = lambda line: None
) -> None:
    """Write one ``.npy`` per video of ``{train,val,test}.json`` in ``tacos``, and a manifest of their checksums.

    The same seed gives the same values.
    A row represents 64 frames. It is standard normal noise plus the vectors of all sentences whose span includes it.
    A sentence's vector is the mean of fixed random vectors, one per word, scaled to a root mean square of 0.25. So the
    words of a sentence can be detected in the rows of its span, and only there. Each row is scaled to a root mean
    square of 0.5; with 2 or more, SGD without clipping diverges at the paper's rate.

    Args:
        tacos: The annotations.
        target: The folder to write, which must not exist. It appears when it is complete.
        seed: Determines all values, at least 0.
        report: Receives a line per finished step.

    Raises:
        UsageError: The target exists, the annotations are missing or damaged, or the disk is full.
    """
    if target.exists():
        raise UsageError(f"{target} already exists; remove it to make the stand-in features again")
    videos: dict[str, Video] = {}
    for part in ("train", "val", "test"):
        videos |= read_annotations(tacos, f"{part}.json")
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    try:
        partial = Path(tempfile.mkdtemp(prefix=".stand-in-", dir=target.parent))
        try:
            (partial / STAND_IN_MARK).write_text(MARK, encoding="utf-8")
            for name, video in videos.items():
                np.save(partial / f"{name}.npy", features_of(name, video, vectors, seed))
            make_manifest(partial, ["*.npy"], published=False).save(partial)
            partial.chmod(0o777 & ~umask())
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{target} cannot be written ({error.strerror or error})") from None
    report(f"{len(videos)} videos in {target}")


def features_of(
    name: str, video: Video, vectors: dict[str, npt.NDArray[np.float32]], seed: int
) -> npt.NDArray[np.float32]:
    """The features of one video, float32 (ceil(frames / 64), 1024).

    Args:
        name: The video, which determines its noise.
        video: Its annotations.
        vectors: The words' vectors; missing ones are added.
        seed: See `make_stand_in`.
    """
    rows = -(-video.num_frames // FRAMES_PER_ROW)
    values = _normal(seed, f"video {name}", rows)
    for (start, end), sentence in zip(video.timestamps, video.sentences, strict=True):
        words = [word for word in words_of(sentence) if word[0].isalnum()] or words_of(sentence)
        for word in words:
            if word not in vectors:
                vectors[word] = _normal(seed, f"word {word}", 1)[0]
        vector = np.mean([vectors[word] for word in words], axis=0)
        vector *= SIGNAL / np.sqrt(np.mean(vector**2))
        values[start // FRAMES_PER_ROW : -(-end // FRAMES_PER_ROW)] += vector
    values *= SCALE / np.sqrt(np.mean(values**2, axis=1, keepdims=True))
    return values


def _normal(seed: int, purpose: str, rows: int) -> npt.NDArray[np.float32]:
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    return generator.standard_normal((rows, FEATURE_SIZE), dtype=np.float32)
