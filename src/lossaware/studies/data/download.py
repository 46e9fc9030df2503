"""Downloads of the public data sets from their official addresses, in their official layouts."""

import gzip
import os
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lossaware.errors import UsageError
from lossaware.studies.data.checksums import MANIFEST, is_published, make_manifest, md5
from lossaware.studies.data.sets import DataSet, Remote
from lossaware.studies.specs.atomic import umask
from lossaware.studies.specs.regular_file import read_regular

ATTEMPTS = 3
TIMEOUT = 30.0
_CHUNK = 1 << 20
_ARCHIVE_ERRORS = (
    shutil.ReadError,
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # a member of a zip is encrypted, or has an unsupported compression
)

Report = Callable[[str], None]
"""Receives a line per finished step."""
Bar = Callable[[str], Any]
"""Takes a file name and returns a progress bar as in pooch: ``total``, ``update(bytes)``, ``reset``, ``close``."""


def get(
    data_set: DataSet,
    folder: Path,
    *,
    report: Report = lambda line: None,
    bar: Bar | None = None,
    attempts: int = ATTEMPTS,
) -> Path:
    """Download a data set, unless it exists, and write a manifest of its checksums.

    A file gets its name only when it is complete and its checksum is correct; a folder only when its archive is
    unpacked and has a manifest. A failed download is retried. It leaves no files, except when the process was killed:
    then the next download removes them. An archive is kept next to its folder.

    Args:
        data_set: One that can be downloaded, of `lossaware.studies.data.sets.DATA_SETS`.
        folder: Target folder; created if missing.
        report: Receives a line per finished step.
        bar: Makes a progress bar for each file; None for no bars.
        attempts: Number of attempts, at least 1.

    Returns:
        The folder that tasks read.

    Raises:
        UsageError: The download fails, the downloaded or an existing file is not the published one, an archive is
            damaged or has unexpected members, or the folder cannot be written.
    """
    place = folder / data_set.place
    try:
        if data_set.is_archive:
            archive = folder / data_set.files[0].name
            if place.is_dir() and ((place / MANIFEST).exists() or not archive.exists()):
                unknown = "" if (place / MANIFEST).exists() else ", but it is not known whether it is the published one"
                report(f"{place} exists{unknown}; move it away to download it")
                return place
            with _workplace(folder, place.name) as work:
                if not _exists(data_set.files[0], archive, report):
                    _fetch(data_set.files[0], archive, work, report, bar, attempts)
                _unpack(data_set, archive, place, work, report)
        else:
            for remote in data_set.files:
                if not _exists(remote, place / remote.name, report):
                    with _workplace(place, place.name) as work:
                        _fetch(remote, place / remote.name, work, report, bar, attempts)
            # Without a manifest the published checksums are used. With one, reading is faster.
            if not (place / MANIFEST).exists() and os.access(place, os.W_OK):
                make_manifest(place, data_set.reads, published=True).save(place)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror or error}") from None
    report(f"{place} is ready")
    return place


def _exists(remote: Remote, path: Path, report: Report) -> bool:
    """Whether the file exists, compressed or not.

    Raises:
        UsageError: It exists, but is not the published one.
    """
    for existing in (path, path.with_name(path.name.removesuffix(".gz"))):
        if existing.exists() or existing.is_symlink():
            content = read_regular(existing)
            if not is_published(remote, existing.name, content):
                raise UsageError(
                    f"{existing} exists, but is not the published file: its MD5 is {md5(content)}; move it away to "
                    "download it"
                )
            report(f"{existing} exists; it is the published file")
            return True
    return False


def _fetch(remote: Remote, path: Path, work: Path, report: Report, bar: Bar | None, attempts: int) -> None:
    """Download a file."""
    # Imported here: these libraries take a third of a second, and most commands do not download.
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    attempt = _Attempt(remote, attempts, report, bar)
    registry, urls = {remote.name: f"md5:{remote.md5}"}, {remote.name: remote.url}
    fetcher = pooch.create(work, base_url="", registry=registry, urls=urls, retry_if_failed=attempts - 1)
    try:
        fetched = Path(fetcher.fetch(remote.name, downloader=attempt))
    except (requests.RequestException, ValueError):  # pooch raises the latter for a wrong checksum
        raise attempt.error from None
    fetched.chmod(0o666 & ~umask())  # pooch leaves the temporary file's permissions: owner only
    fetched.replace(path)


class _Attempt:
    """A downloader for pooch, which calls it again after a failed connection or a wrong checksum."""

    def __init__(self, remote: Remote, attempts: int, report: Report, bar: Bar | None) -> None:
        self._remote, self._attempts, self._report, self._bar = remote, attempts, report, bar
        self._number, self._reason = 0, ""

    @property
    def error(self) -> UsageError:
        """Error of the latest attempt."""
        return UsageError(f"{self._remote.url} cannot be downloaded: {self._reason}; nothing of it was kept")

    def __call__(self, url: str, output: str, fetcher: Any) -> None:
        import pooch
        import requests

        self._number += 1
        if self._number > 1:
            self._report(f"{self._remote.name}: {self._reason}; attempt {self._number} of {self._attempts}")
        bar = False if self._bar is None else self._bar(self._remote.name)
        download = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT, chunk_size=_CHUNK)
        try:
            with open(output, "wb") as file:
                download(url, _Limited(file, self._remote.size), fetcher)
        except _TooLargeError:
            self._reason = f"the server sends more than the {self._remote.size} bytes of the published file"
            raise self.error from None
        except requests.RequestException as error:
            self._reason = _reason(error)
            if not _may_succeed_later(error):
                raise self.error from None
            raise
        except ValueError as error:
            self._reason = f"the server's answer is not valid HTTP ({error})"
            raise self.error from None
        self._reason = "the downloaded file is not the published one: its MD5 differs"


class _TooLargeError(Exception):
    pass


class _Limited:
    """A file that accepts a limited number of bytes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def write(self, content: bytes) -> None:
        self._left -= len(content)
        if self._left < 0:
            raise _TooLargeError
        self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _may_succeed_later(error: Exception) -> bool:
    """Whether a retry of the request may succeed."""
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code >= 500 or response.status_code in (408, 429)
    never = (requests.exceptions.SSLError, requests.exceptions.TooManyRedirects, ValueError)
    return not isinstance(error, never)


def _reason(error: Exception) -> str:
    """Description of a request's failure."""
    response = getattr(error, "response", None)
    causes = list(_causes(error))
    names = {type(cause).__name__ for cause in causes}
    if "TooManyRedirects" in names:
        return "the server redirects in a loop"
    if response is not None:
        return f"the server responded with {response.status_code} {response.reason}"
    if names & {"SSLError", "SSLCertVerificationError"}:
        return f"its TLS connection is not secure or not possible ({_last_text(causes)})"
    if "ProxyError" in names:
        return f"the proxy does not connect to its server ({_last_text(causes)})"
    if names & {"NameResolutionError", "gaierror"}:
        return "the host name cannot be resolved"
    if names & {"IncompleteRead", "ChunkedEncodingError"}:
        return "the connection was interrupted"
    if any(name.endswith(("Timeout", "TimeoutError")) for name in names):
        return f"the server did not respond for {TIMEOUT:.0f} seconds"
    if isinstance(error, ValueError):
        return f"the server redirects to an address that cannot be used ({error})"
    return "cannot connect to the server"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, which `requests` passes as arguments or as ``reason``."""
    while error is not None:
        yield error
        parts = (*error.args, getattr(error, "reason", None), error.__cause__)
        error = next((part for part in parts if isinstance(part, BaseException)), None)


def _last_text(causes: list[BaseException]) -> str:
    """Message of the original cause, in one line."""
    return " ".join(str(causes[-1]).split())


def _unpack(data_set: DataSet, archive: Path, place: Path, work: Path, report: Report) -> None:
    """Unpack the folder ``place.name`` and write its manifest; if the folder exists, write only the manifest."""
    if not hasattr(tarfile, "data_filter"):
        raise UsageError("unpacking needs a Python whose tarfile has filters: 3.11.4 or newer")
    report(f"unpacking {archive.name}")
    unpacked = work / "unpacked"
    # Not by pooch.Unzip and pooch.Untar: they only run as a part of pooch's fetch, which an existing archive does not
    # need, and on Python 3.11 Untar does not check where members are written.
    keywords: dict[str, Any] = {} if archive.suffix == ".zip" else {"filter": _member}
    try:
        shutil.unpack_archive(archive, unpacked, **keywords)
    except _ARCHIVE_ERRORS as error:
        raise UsageError(f"{archive} cannot be unpacked ({error})") from None
    if not (unpacked / place.name).is_dir():
        raise UsageError(f"{archive} does not hold the folder {place.name}")
    manifest = make_manifest(unpacked / place.name, data_set.reads, published=True)
    if place.is_dir():
        manifest.save(place)
        report(f"{place} exists; it is now compared with the published files at each reading")
    else:
        manifest.save(unpacked / place.name)
        os.rename(unpacked / place.name, place)


def _member(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """A member of an archive, checked to stay in the folder, with the default permissions of new files."""
    checked = tarfile.data_filter(member, folder)
    return checked.replace(mode=None, deep=False)  # type: ignore[arg-type]


@contextmanager
def _workplace(folder: Path, name: str) -> Iterator[Path]:
    """A temporary hidden folder in ``folder``. On an error, parent folders that were created for it are removed too.

    If a killed process left one, it is emptied.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".{name}.download"
    try:
        work.mkdir(exist_ok=True)
        with _locked(work):
            if any(work.iterdir()) and not (work / _MARK).is_file():
                raise UsageError(f"{work} exists, but is not of a download by lossaware: move it away")
            (work / _MARK).touch()
            try:
                _empty(work)
                yield work
            finally:
                _empty(work)
                shutil.rmtree(work, ignore_errors=True)  # the mark goes last
    except BaseException:
        for path in created:
            with suppress(OSError):  # it is not empty
                path.rmdir()
        raise


_MARK = ".made-by-lossaware"


def _empty(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _MARK:
            path.unlink()


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Lock a folder against other processes. The lock ends with its process."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{work}: another process is downloading this data set; wait for it to finish") from None
        yield
    finally:
        os.close(descriptor)
