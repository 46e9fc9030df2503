"""The files of a data set, compared with their known checksums when they are read."""

import hashlib
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.data.checksums import MANIFEST, Checksums, list_names
from lossaware.studies.specs.data_folder import FilesRead, current_reading
from lossaware.studies.specs.regular_file import read_regular

_ACCEPT = "restore it, or accept it once with --no-verify, or from now on with `lossaware data record`"


class DataFiles:
    """The files in a folder. Each is read into memory, so that exactly the verified bytes are used.

    Every reading verifies the file, without a cache, because SHA-256 processes more than a gigabyte per second.

    Args:
        folder: The folder.
        place: The folder's name in `DATA_SETS`, such as ``MNIST/raw``, which has the published checksums. Without it
            only a manifest in the folder counts.

    Raises:
        UsageError: The manifest in the folder is damaged.
    """

    def __init__(self, folder: Path, place: str = "") -> None:
        self.folder = folder
        self._place = place or folder.name
        reading = current_reading()
        self._verify = reading.verify
        try:
            self._checksums = Checksums.of(folder, place)
        except UsageError:
            if self._verify:
                raise
            self._checksums = Checksums()
        self._digests: dict[str, str] = {}
        self._differ: set[str] = set()
        reading.opened.append(self)

    def path(self, name: str) -> Path:
        """Path of the file ``name``, for messages."""
        return self.folder / name

    def first(self, *names: str) -> str:
        """The first of these names that exists.

        Raises:
            UsageError: None exists.
        """
        for name in names:
            if self.path(name).exists() or self.path(name).is_symlink():
                return name
        either = " nor ".join(names)
        raise UsageError(f"there is neither {either} in {self.folder}")

    def names(self, pattern: str) -> list[str]:
        """The files that match a pattern such as ``train/*.png``, sorted. The folder must not have a wildcard.

        Raises:
            UsageError: The folder cannot be read, or files that the manifest lists are missing.
        """
        names = list_names(self.folder, pattern)
        if missing := self._checksums.missing(pattern, names):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            self._refuse(missing[0], f"the file is missing, but {MANIFEST} lists it{more}")
        return names

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            UsageError: It cannot be read, or its checksum differs.
        """
        size = self._checksums.size(name)
        content = read_regular(self.path(name), size if self._verify else None)
        digest = hashlib.sha256(content).hexdigest()
        self._digests[name] = digest
        if not self._checksums.knows(name):
            self._refuse(name, f"{MANIFEST} does not list this file")
        elif not self._checksums.fits(name, content, digest):
            self._refuse(name, f"it differs from {self._checksums.origin(name)} (its SHA-256 is {digest})")
        return content

    def summary(self) -> FilesRead:
        """The files read so far, and whether they were verified."""
        origins = {self._checksums.origin(name) for name in self._digests}
        if not self._verify:
            verdict = "not verified (--no-verify)"
            if self._differ:
                verdict += f"; changed: {', '.join(sorted(self._differ)[:3])}{', ...' * (len(self._differ) > 3)}"
        elif not all(origins):
            verdict = "not verified (no checksums are known)"
        else:
            verdict = f"verified ({', '.join(sorted(origins))})"
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self._digests.items()))
        verified = self._verify and all(origins)
        return FilesRead(self._place, verified, verdict, hashlib.sha256(lines.encode()).hexdigest())

    def _refuse(self, name: str, reason: str) -> None:
        if self._verify:
            raise UsageError(f"{self.path(name)}: {reason}; {_ACCEPT}")
        self._differ.add(name)
