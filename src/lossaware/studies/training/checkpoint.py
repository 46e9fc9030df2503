"""Checkpoints, from which an interrupted run continues to the same bits. One file per run, written atomically.

They are separate from the store. A checkpoint contains the records of all epochs before it. If the process is killed
after it has written only one of the two, the epochs that are reported again are still the same as the stored ones.
"""

import contextlib
import hashlib
import io
import re
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lossaware.errors import UsageError
from lossaware.studies.specs import provenance as environment
from lossaware.studies.specs.atomic import atomic_file, remove_own
from lossaware.studies.specs.options import where
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.user_code import source_digest

SECONDS = 5.0
"""Minimum time between two checkpoints. Runs of a few seconds do not write any."""
SHARE = 0.02
"""Maximum share of a run's time for writing checkpoints. Large models are written less often."""
_MAGIC = b"lossaware checkpoint 1\n"
_HEAD = len(_MAGIC) + 32
_NAME = re.compile(r"[0-9a-f]{16}\.pt|\.[0-9a-f]{16}\.pt-\w{8}")
"""The names of checkpoints, complete and partial."""


Tell = Callable[[str, int], None]
"""Receives a message, and the number of epochs restored from the checkpoint."""


class Checkpoint:
    """The checkpoint of one run.

    A file begins with the SHA-256 of its content. It records what it belongs to: the run, the source of its task and of
    this package, torch, the processor and the values of `bind`. If any of these differs or the file is damaged, the
    checkpoint is not used and the run starts from the beginning, with a message. If the disk is full, the run continues
    without checkpoints, with a message.

    Args:
        path: The file; its folder is created if missing.
        spec: The run.
        tell: Receives the messages.
    """

    def __init__(self, path: Path, spec: RunSpec, tell: Tell = lambda message, epochs: None) -> None:
        self.path = path
        self.tell = tell
        self._of: dict[str, Any] = {
            "run": spec.key,
            "task or optimizer file": source_digest(spec.own_code),
            "lossaware": PACKAGE,
            "torch": str(torch.__version__),
            "processor": environment.processor(spec.device),
            "data": [],
        }
        self._last, self._cost = time.monotonic(), 0.0
        self._complained = False

    def bind(self, name: str, value: Any) -> None:
        """Use a checkpoint only if it was written with this value.

        Args:
            name: Name of the value, for the message.
            value: Numbers, texts, or lists of them.
        """
        self._of[name] = value

    def load(self) -> Any:
        """The state of `keep`; None if there is no usable checkpoint."""
        try:
            # Links are refused, and also devices and pipes, because opening them may block or have effects.
            if not stat.S_ISREG(self.path.lstat().st_mode):
                return self.refuse("is not a regular file")
            with self.path.open("rb") as file:
                head = file.read(_HEAD)
                # In pieces: a large model's checkpoint may not fit into memory twice.
                if head != _MAGIC + hashlib.file_digest(file, "sha256").digest():
                    return self.refuse("is damaged or cut short")
                if not _is_uncompressed(file):
                    return self.refuse("is compressed or of another kind")
                file.seek(_HEAD)
                content = torch.load(file, weights_only=True)
            if any(map(_is_inflated, _tensors(content))):
                return self.refuse("has a tensor that is larger than its content")
        except FileNotFoundError:
            return None
        except OSError as error:
            return self.refuse(f"cannot be read ({error.strerror})")
        except Exception as error:
            return self.refuse(f"cannot be read safely ({type(error).__name__})")
        if not (isinstance(content, dict) and isinstance(content.get("of"), dict) and "state" in content):
            return self.refuse("does not name its run")
        for name, value in self._of.items():
            if content["of"].get(name) != value:
                return self.refuse(f"differs in its {name}")
        return content["state"]

    def refuse(self, reason: str) -> None:
        """Report that the run starts from the beginning, for a reason such as ``"is damaged"``."""
        self.tell(f"the checkpoint {self.path} {reason}, so the run starts from the beginning", 0)

    @property
    def due(self) -> bool:
        """Whether it is time for `keep` to write."""
        return time.monotonic() - self._last >= max(SECONDS, self._cost / SHARE)

    def keep(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write the run's state, if it is due.

        Args:
            state: Returns the state: numbers, texts and tensors in dictionaries, lists and tuples.
        """
        if not self.due:
            return
        start = time.monotonic()
        try:
            with atomic_file(self.path) as file:
                file.write(_MAGIC + bytes(_HEAD - len(_MAGIC)))
                hashing: Any = _Hashing(file)
                torch.save({"of": self._of, "state": state()}, hashing)
                file.seek(len(_MAGIC))
                file.write(hashing.digest.digest())
        except Exception as error:
            if not self._complained:
                reason = error if isinstance(error, UsageError) else f"no checkpoint can be written ({where(error)})"
                self.tell(f"{reason}; the run continues without checkpoints", 0)
            self._complained = True
        self._last = time.monotonic()
        self._cost = self._last - start


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of the runs of one store.

    Attributes:
        folder: Their folder; created with the first checkpoint and removed with the last.
    """

    folder: Path

    def of(self, spec: RunSpec, tell: Tell) -> Checkpoint:
        """The checkpoint of a run."""
        return Checkpoint(self.folder / f"{spec.key}.pt", spec, tell)

    def folder_of(self, spec: RunSpec) -> Path:
        """The folder in which a run's function keeps its own files; it may not exist.

        Its name has a digest of the code, torch and the processor (see `Checkpoint`), so that each has its own.
        """
        of = (source_digest(spec.own_code), PACKAGE, torch.__version__, environment.processor(spec.device))
        return self.folder / f"{spec.key}-{hashlib.sha256(repr(of).encode()).hexdigest()[:16]}"

    def remove(self, spec: RunSpec) -> None:
        """Remove a run's checkpoint. Call it after the run is stored as complete, so that no kill loses both."""
        remove_own(self.folder / f"{spec.key}.pt", _MAGIC)
        if spec.is_open_ended:
            for folder in self.folder.glob(f"{spec.key}-*"):
                _remove_folder(folder)

    def clear(self, complete: Container[str]) -> None:
        """Remove leftovers of kills, while no run writes: partial files, and those of complete runs.

        Args:
            complete: The keys of complete runs.

        Raises:
            UsageError: The folder is a link, which may lead to unrelated files.
        """
        if self.folder.is_symlink():
            raise UsageError(f"{self.folder}: this is a link, but checkpoints need a folder: remove the link")
        for path in self.folder.glob("*"):
            if path.is_dir() and not path.is_symlink():
                if path.name.partition("-")[0] in complete:
                    _remove_folder(path)
            elif _NAME.fullmatch(path.name) and (path.suffix != ".pt" or path.stem in complete):
                remove_own(path, _MAGIC)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


MOST_INFLATED = 1 << 30
"""Maximum size in bytes of a tensor whose elements share memory. In an optimizer's state torch would copy it."""


def _is_inflated(tensor: torch.Tensor) -> bool:
    size = tensor.numel() * tensor.element_size()
    return tensor.layout is torch.strided and size > max(MOST_INFLATED, tensor.untyped_storage().nbytes())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in dictionaries, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _is_uncompressed(file: BinaryIO) -> bool:
    """Whether this is a zip file as torch writes it. A compressed one may need a thousand times its size in memory."""
    with zipfile.ZipFile(file) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


class _Hashing(io.RawIOBase):
    """A file that is written sequentially, and the digest of its content."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)


def _remove_folder(path: Path) -> None:
    """Remove a run's own folder, without following links."""
    if re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{16}", path.name) and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)


def _package_digest() -> str:
    """SHA-256 of this package's source. The version number does not change during development."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    for path in sorted((*package.rglob("*.py"), *package.rglob("*.c"))):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


# Computed at import: the source may change during a long run.
PACKAGE = _package_digest()
"""Digest of this package's source."""
