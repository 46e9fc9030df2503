"""Checksums of data files: the published ones, and those in a manifest in the folder of the files."""

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.data.sets import DATA_SETS, DataSet, Remote
from lossaware.studies.specs.atomic import write_atomic
from lossaware.studies.specs.regular_file import MALFORMED, MAX_BYTES, read_regular

MANIFEST = "lossaware-checksums.json"
FORMAT = 1
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """Sizes and checksums of files, written by `lossaware data get` or `lossaware data record`.

    Attributes:
        published: Whether the files are from the published download, whose checksum was correct.
        date: Date of writing, in ISO 8601.
        files: Size in bytes and SHA-256 of each file, by its name relative to the folder, with ``/``.
    """

    published: bool
    date: str
    files: Mapping[str, tuple[int, str]]

    @property
    def origin(self) -> str:
        """Description of the files."""
        return "the published files" if self.published else f"the files recorded on {self.date[:10]}"

    def names(self, pattern: str) -> set[str]:
        """The files of one folder that match a pattern such as ``train/*.png``. The folder must not have a wildcard."""
        folder, _, name = pattern.rpartition("/")
        return {path for path in self._by_folder.get(folder, ()) if fnmatchcase(path.rpartition("/")[2], name)}

    @cached_property
    def _by_folder(self) -> Mapping[str, list[str]]:
        by_folder: dict[str, list[str]] = {}
        for path in self.files:
            by_folder.setdefault(path.rpartition("/")[0], []).append(path)
        return by_folder

    def save(self, folder: Path) -> None:
        """Write it into the folder of the files.

        Raises:
            UsageError: The folder cannot be written to.
        """
        head = {"format": FORMAT, "published": self.published, "date": self.date}
        lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(self.files.items())]
        text = json.dumps(head, indent=1).removesuffix("\n}") + ',\n "files": {\n' + ",\n".join(lines) + "\n }\n}\n"
        write_atomic(folder / MANIFEST, text)

    @classmethod
    def load(cls, folder: Path) -> "Manifest | None":
        """The manifest in that folder, or None.

        Raises:
            UsageError: It cannot be read, or is damaged.
        """
        path = folder / MANIFEST
        if not path.exists() and not path.is_symlink():
            return None
        try:
            content: Any = json.loads(read_regular(path))
            if content["format"] != FORMAT:
                raise UsageError(f"{path}: format {content['format']!r}; this version of lossaware reads {FORMAT}")
            if type(content["published"]) is not bool:
                raise ValueError(f"published is {content['published']!r}")
            date = datetime.fromisoformat(content["date"]).isoformat(timespec="seconds")
            files = {name: _entry(name, *entry) for name, entry in content["files"].items()}
        except MALFORMED as error:
            raise UsageError(
                f"{path}: damaged ({type(error).__name__}: {error}); write it again with `lossaware data get` or "
                "`lossaware data record`"
            ) from None
        return cls(content["published"], date, files)


def _entry(name: str, size: Any, digest: Any) -> tuple[int, str]:
    if type(size) is not int or size < 0 or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{name}: size {size!r}, SHA-256 {digest!r}")
    return size, digest


def make_manifest(folder: Path, patterns: Iterable[str], *, published: bool) -> Manifest:
    """The manifest of the present files in ``folder``.

    Args:
        folder: The folder.
        patterns: Glob patterns of the files.
        published: See `Manifest`.

    Raises:
        UsageError: No file matches, or a file cannot be read.
    """
    files = {}
    for name in (name for pattern in patterns for name in list_names(folder, pattern)):
        content = read_regular(folder / name)
        files[name] = len(content), hashlib.sha256(content).hexdigest()
    if not files:
        raise UsageError(f"{folder} has no file that matches {', '.join(patterns)}")
    return Manifest(published, datetime.now(UTC).isoformat(timespec="seconds"), files)


def record_files(data_set: DataSet, folder: Path) -> list[Path]:
    """Write manifests of the present files of a data set without published checksums, or with changed files.

    Args:
        data_set: The data set.
        folder: The folder that the user names for data.

    Returns:
        The existing folders of the data set.

    Raises:
        UsageError: No folder exists, a folder has no file that tasks read, or a file cannot be read or written.
    """
    existing = {folder / place: patterns for place, patterns in data_set.places.items() if (folder / place).is_dir()}
    if not existing:
        raise UsageError(f"there is no folder {folder / data_set.place}")
    for place, patterns in existing.items():
        make_manifest(place, patterns, published=False).save(place)
    return list(existing)


def list_names(folder: Path, pattern: str) -> list[str]:
    """Names of the files in ``folder`` that match a glob pattern, relative, with ``/``, sorted, without hidden files.

    Raises:
        UsageError: A folder cannot be read.
    """
    try:
        paths = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: cannot be read ({error.strerror or error})") from None
    return sorted(path.relative_to(folder).as_posix() for path in paths)


@dataclass(frozen=True)
class Checksums:
    """All known checksums of the files in a folder. The manifest takes precedence.

    Attributes:
        manifest: The folder's manifest, or None.
        remotes: Published files by name, compressed or not.
        sha256: SHA-256 of other published files by name.
    """

    manifest: Manifest | None = None
    remotes: Mapping[str, Remote] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, place: str) -> "Checksums":
        """The checksums of ``folder``, which has the layout of ``place``.

        Args:
            folder: The folder of the files.
            place: The folder of a data set of `DATA_SETS`. For any other place only the manifest counts.
        """
        data_set: DataSet | None = next((entry for entry in DATA_SETS.values() if entry.place == place), None)
        manifest = Manifest.load(folder)
        if data_set is None:
            return cls(manifest)
        # An archive's checksum does not cover the unpacked members; `lossaware data get` writes a manifest of them.
        remotes = () if data_set.is_archive else data_set.files
        by_name = {name: remote for remote in remotes for name in (remote.name, remote.name.removesuffix(".gz"))}
        return cls(manifest, by_name, data_set.sha256)

    def origin(self, name: str) -> str:
        """Description of the file that the checksum of ``name`` belongs to; empty if there is no checksum."""
        if self.manifest is not None and name in self.manifest.files:
            return self.manifest.origin
        return "the published files" if name in self.remotes or name in self.sha256 else ""

    def knows(self, name: str) -> bool:
        """Whether the file belongs to the data set, of which a manifest lists all files."""
        return self.manifest is None or bool(self.origin(name))

    def size(self, name: str) -> int | None:
        """The size in bytes that the file must have; None if it is not known."""
        return self.manifest.files[name][0] if self.manifest is not None and name in self.manifest.files else None

    def missing(self, pattern: str, names: Iterable[str]) -> list[str]:
        """Names in the manifest that match ``pattern`` (see `Manifest.names`) and are not among ``names``."""
        if self.manifest is None:
            return []
        return sorted(self.manifest.names(pattern) - set(names))

    def fits(self, name: str, content: bytes, digest: str) -> bool:
        """Whether the content matches the file's checksum, if there is one.

        Args:
            name: The file.
            content: All its bytes.
            digest: Their SHA-256.
        """
        if self.manifest is not None and name in self.manifest.files:
            return digest == self.manifest.files[name][1]
        if name in self.sha256:
            return digest == self.sha256[name]
        return name not in self.remotes or is_published(self.remotes[name], name, content)


def is_published(remote: Remote, name: str, content: bytes) -> bool:
    """Whether this is a published file: byte for byte, or its content recompressed or uncompressed."""
    if name == remote.name and md5(content) == remote.md5:
        return True
    if remote.content_md5 is None:
        return False
    if not name.endswith(".gz"):
        return md5(content) == remote.content_md5
    digest, total = hashlib.md5(usedforsecurity=False), 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            while (chunk := file.read(_CHUNK)) and (total := total + len(chunk)) <= MAX_BYTES:
                digest.update(chunk)
    except (EOFError, OSError, zlib.error):
        return False
    return digest.hexdigest() == remote.content_md5


def md5(content: bytes) -> str:
    """MD5 as 32 hexadecimal digits."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
