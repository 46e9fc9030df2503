"""TACoS (Regneri et al., 2013): sentences and the parts of cooking videos that they describe.

Annotations have the format of VSLNet's code: ``{train,val,test}.json``, with name, frames per second, number of frames
and sentences of each video, and first and last frame of each sentence. Features are one ``.npy`` per video,
frames x 1024.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles
from lossaware.studies.models.vslnet import PADDING
from lossaware.studies.specs.task import Batch, InMemory

PLACE = "tacos"
FEATURE_SIZE = 1024
POSITIONS = 128
WORDS = 2048
UNKNOWN = 1
# Marks a folder of stand-in features, so that they cannot be mistaken for real ones.
STAND_IN_MARK = "STAND-IN-FEATURES.txt"

_Frame = Annotated[int, Field(ge=0)]


class Video(BaseModel, extra="forbid"):
    """The annotations of one video."""

    timestamps: list[tuple[_Frame, _Frame]]
    sentences: list[str]
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    num_frames: Annotated[int, Field(gt=0)]


def read_annotations(files: DataFiles, name: str) -> dict[str, Video]:
    """The annotated videos of one file, by name without ``.avi``.

    An annotation may end up to a second after its video, as in TACoS; it is then cut at the end of the video.

    Raises:
        UsageError: The file cannot be read, is not JSON, or an annotation is not valid.
    """
    path, content = files.path(name), files.read(name)
    try:
        videos = TypeAdapter(dict[str, Video]).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: {place + ': ' if place else ''}{first['msg']}") from None
    for name, video in videos.items():
        _check(f"{path}: {name}", name, video)
        if not name.endswith(".avi") and f"{name}.avi" in videos:
            raise UsageError(f"{path}: {name} is listed twice, with and without .avi")
    if not any(video.sentences for video in videos.values()):
        raise UsageError(f"{path}: it has no annotated video")
    return {name.removesuffix(".avi"): video for name, video in videos.items()}


def _check(where: str, name: str, video: Video) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"{where!r} is not a valid video name; letters, digits, '.', '_' and '-' are allowed")
    if len(video.timestamps) != len(video.sentences):
        raise UsageError(f"{where} has {len(video.timestamps)} timestamps and {len(video.sentences)} sentences")
    for index, ((start, end), sentence) in enumerate(zip(video.timestamps, video.sentences, strict=True)):
        if not words_of(sentence):
            raise UsageError(f"{where}: sentence {index} is empty")
        if not start < min(end, video.num_frames) or end > video.num_frames + video.fps:
            span = f"frames {start} to {end} of {video.num_frames}"
            raise UsageError(
                f"{where}: timestamp {index} is {span}; it must lie within the video, the end after the start"
            )
        video.timestamps[index] = (start, min(end, video.num_frames))


def words_of(sentence: str) -> list[str]:
    """The words of a sentence in lower case; each punctuation mark is a separate word."""
    return re.findall(r"\w+(?:'\w+)?|[^\w\s]", sentence.lower())


def vocabulary(sentences: Iterable[str]) -> dict[str, int]:
    """Indices of words: 0 is padding, 1 an unknown word, then words by frequency, and alphabetically for equal ones.

    There are at most `WORDS` indices, so that the network's size does not depend on the data; rarer words are unknown.
    """
    counts = Counter(word for sentence in sentences for word in words_of(sentence))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[: WORDS - 2]
    return {word: number for number, word in enumerate(ranked, UNKNOWN + 1)}


def read_features(files: DataFiles, name: str, positions: int = POSITIONS) -> Tensor:
    """A video's features, float32 (time, 1024), time at most ``positions``.

    Longer ones are averaged over ``positions`` segments of equal length, up to rounding.

    Args:
        files: The folder of ``NAME.npy`` or ``NAME.avi.npy``.
        name: The video.
        positions: Maximum length.

    Raises:
        UsageError: The file is missing, is not an array of numbers (time, 1024), or has a value that is not finite.
    """
    name = files.first(f"{name}.npy", f"{name}.avi.npy")
    path, content = files.path(name), files.read(name)
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # with a damaged header, NumPy raises nearly anything
        # Only the first sentence: NumPy's others advise, for example, to unpickle the file.
        raise UsageError(f"{path}: not a readable array ({str(error).split('. ')[0]})") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        raise UsageError(f"{path}: an array of floating-point numbers is expected")
    if values.ndim != 2 or values.shape[1] != FEATURE_SIZE or not len(values):
        raise UsageError(f"{path}: shape {values.shape}; (frames, {FEATURE_SIZE}) is expected")
    with np.errstate(over="ignore"):  # a value that is too large becomes infinite, which is reported below
        pooled = pool(values.astype(np.float32), positions)
    if not np.isfinite(pooled).all():
        raise UsageError(f"{path}: it has values that are not finite")
    return torch.from_numpy(pooled)


def pool(values: npt.NDArray[np.float32], positions: int) -> npt.NDArray[np.float32]:
    """At most ``positions`` rows: means of segments of equal length, up to rounding."""
    if len(values) <= positions:
        return values
    borders = np.round(np.arange(positions + 1) / positions * len(values)).astype(np.int64)
    sums: npt.NDArray[np.float32] = np.add.reduceat(values, borders[:-1], axis=0)
    return (sums / np.diff(borders)[:, None]).astype(np.float32)


def positions_of(moments: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """First and last position of the segment of the video that has the largest overlap with each moment.

    Args:
        moments: (N, 2), start and end as fractions of the video, start < end.
        lengths: (N), int64: number of positions of each video.

    Returns:
        Two tensors (N), int64, from 0 to length - 1.
    """
    start, end = (moments.double() * lengths.unsqueeze(1)).unbind(1)
    best = torch.full_like(start, -1)
    first, last = torch.zeros_like(lengths), torch.zeros_like(lengths)
    # The overlap is the intersection over union. For a given end, it rises up to the moment's start and falls after it;
    # the same holds for the end.
    for a in (start.floor(), start.ceil()):
        for b in (end.ceil(), end.floor()):
            both = torch.minimum(b, end) - torch.maximum(a, start)
            either = torch.maximum(b, end) - torch.minimum(a, start)
            share = torch.where(b > a, both / either, -1.0)
            better = share > best
            best = torch.where(better, share, best)
            first = torch.where(better, a.long(), first)
            last = torch.where(better, b.long() - 1, last)
    return first, last


@dataclass(frozen=True)
class Moments:
    """Sentences and the moments that they describe. A video's features are stored once for all its sentences.

    Attributes:
        features: float32 (videos, `POSITIONS`, 1024).
        queries: Per example: video (an index), its length in positions, words (padded), first and last position, and
            the moment as fractions of the video (2).
    """

    features: Tensor
    queries: InMemory

    def __len__(self) -> int:
        return len(self.queries)

    def to(self, device: torch.device) -> Self:
        """The features on that device. The rest stays on the host, where each batch reads its lengths."""
        return replace(self, features=self.features.to(device))

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """Batches for `lossaware.studies.models.vslnet.grounding`, as long as their longest video and sentence."""
        for video, length, words, first, last, moment in self.queries.batches(size, generator):
            time = int(length.max())
            longest = int((words != PADDING).sum(dim=1).max())
            index = video.to(self.features.device, non_blocking=True)
            yield self.features[index, :time], length, words[:, :longest], first, last, moment


def read_moments(
    files: DataFiles, features: DataFiles, part: str, numbers: dict[str, int] | None = None
) -> tuple[Moments, dict[str, int]]:
    """The sentences of one file with the features of their videos.

    Args:
        files: The annotations.
        features: The features.
        part: ``"train"``, ``"val"`` or ``"test"``.
        numbers: The indices of the words; by default they are made from this file's sentences.

    Returns:
        The examples, in the file's order, and the indices of the words.

    Raises:
        UsageError: See `read_annotations` and `read_features`.
    """
    videos = read_annotations(files, f"{part}.json")
    if numbers is None:
        numbers = vocabulary(sentence for video in videos.values() for sentence in video.sentences)
    table = torch.zeros(len(videos), POSITIONS, FEATURE_SIZE)
    rows, sentences, moments = [], [], []
    for index, (name, video) in enumerate(videos.items()):
        values = read_features(features, name)
        table[index, : len(values)] = values
        for (start, end), sentence in zip(video.timestamps, video.sentences, strict=True):
            rows.append((index, len(values)))
            sentences.append(torch.tensor([numbers.get(word, UNKNOWN) for word in words_of(sentence)[:POSITIONS]]))
            moments.append((start / video.num_frames, end / video.num_frames))
    video_index, lengths = torch.tensor(rows).unbind(1)
    spans = torch.tensor(moments)
    words = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=PADDING)
    return Moments(table, InMemory((video_index, lengths, words, *positions_of(spans, lengths), spans))), numbers
