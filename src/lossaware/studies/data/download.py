"""The public data sets, from their official addresses: checked, whole or not there, in their official layouts."""

import gzip
import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossaware.errors import UsageError

ATTEMPTS = 3
TIMEOUT = 30.0
_CHUNK = 1 << 20

Bar = Callable[[str], Any]
"""Gets a file's name, gives a progress bar as pooch wants it: ``total``, ``update(bytes)``, ``reset``, ``close``."""


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        url: Its address.
        md5: Of its bytes, 32 hexadecimal digits.
        content_md5: Where it is a ``.gz``: of what it holds, by which a copy packed anew or unpacked is known too.
    """

    url: str
    md5: str
    content_md5: str | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        summary: One line for lists.
        place: The folder that tasks read, below the one that the user names.
        files: One archive that holds the last part of ``place``, or the very files of ``place``.
        megabytes: What is downloaded, about.
    """

    summary: str
    place: str
    files: tuple[Remote, ...]
    megabytes: int

    @property
    def is_archive(self) -> bool:
        """Whether the one file is to be unpacked."""
        return self.files[0].name.endswith((".tar.gz", ".zip"))


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
DATA_SETS = {
    "mnist": DataSet(
        "Handwritten digits, 70,000 images of 28 x 28",
        "MNIST/raw",
        (
            Remote(
                f"{_MNIST}train-images-idx3-ubyte.gz",
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "6bbc9ace898e44ae57da46a324031adb",
            ),
            Remote(
                f"{_MNIST}train-labels-idx1-ubyte.gz",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "a25bea736e30d166cdddb491f175f624",
            ),
            Remote(
                f"{_MNIST}t10k-images-idx3-ubyte.gz",
                "9fb629c4189551a2d022fa330f9573f3",
                "2646ac647ad5339dbf082846283269ea",
            ),
            Remote(
                f"{_MNIST}t10k-labels-idx1-ubyte.gz",
                "ec29112dd5afa0611ce80d1b7f02629c",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
        12,
    ),
    "cifar10": DataSet(
        "Photographs of 10 classes, 60,000 of 32 x 32 (binary version)",
        "cifar-10-batches-bin",
        (Remote(f"{_CIFAR}cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
        170,
    ),
    "cifar100": DataSet(
        "Photographs of 100 classes, 60,000 of 32 x 32 (binary version)",
        "cifar-100-binary",
        (Remote(f"{_CIFAR}cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),),
        169,
    ),
    "tinyimagenet": DataSet(
        "Photographs of 200 classes, 120,000 of 64 x 64",
        "tiny-imagenet-200",
        (Remote("https://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),),
        248,
    ),
}


def get(
    data_set: DataSet,
    folder: Path,
    *,
    report: Callable[[str], None] = lambda line: None,
    bar: Bar | None = None,
    attempts: int = ATTEMPTS,
    pause: float = 1.0,
) -> Path:
    """Downloads a data set, unless it is there.

    A file appears under its name only when it is whole and has its checksum, a folder only when all of its archive is
    unpacked. A broken download is started again. An archive is kept beside its folder.

    Args:
        data_set: One of `DATA_SETS`.
        folder: Where to; made if it is missing.
        report: Gets a line on what is done.
        bar: Makes a progress bar a file; None shows none.
        attempts: How often a download is tried, at least 1.
        pause: Seconds before the second attempt; before the third it is twice as long, and so on.

    Returns:
        The folder that tasks read.

    Raises:
        UsageError: The download fails, what came is not the published file, a file that is there is not it either, an
            archive holds what it should not, or the folder cannot be written.
    """
    place = folder / data_set.place
    try:
        if data_set.is_archive:
            if place.is_dir():
                report(f"{place} is already there")
                return place
            archive = _fetch(data_set.files[0], folder, report, bar, attempts, pause)
            report(f"unpacking {archive.name}")
            _unpack(archive, place)
        else:
            for remote in data_set.files:
                _fetch(remote, place, report, bar, attempts, pause)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror or error}") from None
    report(f"{place} is ready")
    return place


def _fetch(
    remote: Remote, folder: Path, report: Callable[[str], None], bar: Bar | None, attempts: int, pause: float
) -> Path:
    """The file in ``folder``, downloaded if it is not there."""
    for path in (folder / remote.name, folder / remote.name.removesuffix(".gz")):
        if path.is_file():
            _check_present(path, remote)
            report(f"{path} is already there")
            return path
    # Imported here: the libraries that speak HTTP take a third of a second, and most commands download nothing.
    import pooch  # type: ignore[import-untyped]
    import requests

    folder.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel(logging.WARNING)
    for attempt in range(1, attempts + 1):
        progress = False if bar is None else bar(remote.name)
        try:
            pooch.retrieve(
                remote.url,
                known_hash=f"md5:{remote.md5}",
                fname=remote.name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=progress, timeout=TIMEOUT, chunk_size=_CHUNK),
            )
        except (requests.RequestException, ValueError) as error:
            # Of pooch's own errors the only ValueError is a checksum that differs.
            foreign = not isinstance(error, requests.RequestException)
            why = "what comes is not the published file, its MD5 differs" if foreign else _reason(error)
            if attempt == attempts or not _worth_another(error):
                raise UsageError(f"{remote.url} cannot be downloaded: {why}; nothing of it was kept") from None
            report(f"{remote.name}: {why}; attempt {attempt + 1} of {attempts}")
            time.sleep(pause * attempt)
        else:
            break
    path = folder / remote.name
    path.chmod(0o644)  # pooch leaves it as the temporary file that it was: for its owner alone
    return path


def _check_present(path: Path, remote: Remote) -> None:
    md5 = _md5(path, unzip=False)
    if md5 == remote.md5:
        return
    if remote.content_md5 is not None:
        try:
            if _md5(path, unzip=path.suffix == ".gz") == remote.content_md5:
                return
        except (EOFError, zlib.error, gzip.BadGzipFile):
            pass
    raise UsageError(f"{path} is there, but is not the published file: its MD5 is {md5}; move it away to download it")


def _md5(path: Path, *, unzip: bool) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with gzip.open(path) if unzip else path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _worth_another(error: Exception) -> bool:
    """Whether the same request may have another answer: not where the server says that there is no such file."""
    response = getattr(error, "response", None)
    return response is None or response.status_code >= 500 or response.status_code in (408, 429)


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    names = {type(cause).__name__ for cause in _causes(error)}
    if names & {"NameResolutionError", "gaierror"}:
        return "its server is not known here"
    if names & {"IncompleteRead", "ChunkedEncodingError"}:
        return "the connection was cut"
    if any(name.endswith(("Timeout", "TimeoutError")) for name in names):
        return f"the server said nothing for {TIMEOUT:.0f} seconds"
    return "there is no connection to its server"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was made of: `requests` hands the causes on as arguments or as ``reason``."""
    while error is not None:
        yield error
        parts = (*error.args, getattr(error, "reason", None), error.__cause__)
        error = next((part for part in parts if isinstance(part, BaseException)), None)


def _unpack(archive: Path, place: Path) -> None:
    """Unpacks beside ``place`` and moves the folder of its name there."""
    with _beside(place) as made:
        try:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(made)  # which keeps every member below the folder
            else:
                if not hasattr(tarfile, "data_filter"):
                    raise UsageError("unpacking needs a Python whose tarfile has filters: 3.11.4 or newer")
                with tarfile.open(archive) as packed_tar:
                    packed_tar.extractall(made, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UsageError(f"{archive} cannot be unpacked ({error})") from None
        if not (made / place.name).is_dir():
            raise UsageError(f"{archive} does not hold the folder {place.name}")
        os.rename(made / place.name, place)


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A folder beside ``place`` that is gone afterwards, whatever happens."""
    made = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
