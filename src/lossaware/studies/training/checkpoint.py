"""Checkpoints: what a run needs to go on in the middle to the same bits, one file a run, whole or not there.

They are beside the store and no part of it. A checkpoint holds all epochs before it, so that whichever of the two was
written last when a run was killed, the epochs that are told again agree with those that are stored.
"""

import contextlib
import hashlib
import io
import re
import shutil
import stat
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lossaware.errors import UsageError
from lossaware.studies.specs import provenance as environment
from lossaware.studies.specs.atomic import remove_own, whole_file
from lossaware.studies.specs.options import where
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.user_code import source_digest

SECONDS = 5.0
"""The shortest time between two checkpoints, so that a run of a second writes none."""
SHARE = 0.02
"""The largest share of a run's time that goes into writing them: a large model is written less often."""
_MAGIC = b"lossaware checkpoint 1\n"
_HEAD = len(_MAGIC) + 32
_NAME = re.compile(r"[0-9a-f]{16}\.pt|\.[0-9a-f]{16}\.pt-\w{8}")
"""The names of checkpoints, whole and half written."""


Tell = Callable[[str, int], None]
"""Gets what is worth a line, and how many epochs were taken from the checkpoint."""


class Checkpoint:
    """The checkpoint of one run.

    A file begins with the SHA-256 of its content, and says what it belongs to: the run, the source of its task and of
    this package, torch, the processor and what `bind` adds. Where any of these differs or the file is damaged, it is
    not taken, as the numbers would be of neither; the run starts anew and a line says why. A disk that is full costs
    the checkpoint and a line, not the run.

    Args:
        path: The file; its folder is made where it is not there.
        spec: The run.
        tell: Gets the lines.
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
        """Take a checkpoint only where it was written with this value.

        Args:
            name: What the value is, for the message.
            value: Numbers, texts, or lists of them.
        """
        self._of[name] = value

    def load(self) -> Any:
        """What was given to `keep`; None where there is nothing that can be taken."""
        try:
            # Never through a link, and nothing that may wait or do something when it is opened.
            if not stat.S_ISREG(self.path.lstat().st_mode):
                return self.refuse("is not a regular file")
            with self.path.open("rb") as file:
                head = file.read(_HEAD)
                # Piece by piece, for a checkpoint of a large model may not fit into memory twice.
                if head != _MAGIC + hashlib.file_digest(file, "sha256").digest():
                    return self.refuse("is damaged or cut short")
                file.seek(_HEAD)
                found = torch.load(file, weights_only=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            return self.refuse(f"cannot be read ({error.strerror})")
        except Exception as error:
            return self.refuse(f"holds what cannot be read safely ({type(error).__name__})")
        if not (isinstance(found, dict) and isinstance(found.get("of"), dict) and "state" in found):
            return self.refuse("does not say what it belongs to")
        for name, value in self._of.items():
            if found["of"].get(name) != value:
                return self.refuse(f"is of another {name}")
        return found["state"]

    def refuse(self, reason: str) -> None:
        """Say that the run starts anew, for a reason such as ``"is damaged"``."""
        self.tell(f"the checkpoint {self.path} {reason}, so the run starts anew", 0)

    @property
    def due(self) -> bool:
        """Whether it is time for `keep` to write."""
        return time.monotonic() - self._last >= max(SECONDS, self._cost / SHARE)

    def keep(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write the run's state, if it is time for that.

        Args:
            state: Gives what `load` is to return: numbers, texts and tensors in dictionaries, lists and tuples.
        """
        if not self.due:
            return
        began = time.monotonic()
        try:
            with whole_file(self.path) as file:
                file.write(_MAGIC + bytes(_HEAD - len(_MAGIC)))
                hashing: Any = _Hashing(file)
                torch.save({"of": self._of, "state": state()}, hashing)
                file.seek(len(_MAGIC))
                file.write(hashing.digest.digest())
        except Exception as error:
            if not self._complained:
                reason = error if isinstance(error, UsageError) else f"no checkpoint can be written ({where(error)})"
                self.tell(f"{reason}; the run goes on without", 0)
            self._complained = True
        self._last = time.monotonic()
        self._cost = self._last - began


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of the runs of one store.

    Attributes:
        folder: Where they lie; it is made with the first of them and goes with the last.
    """

    folder: Path

    def of(self, spec: RunSpec, tell: Tell) -> Checkpoint:
        """That of one run."""
        return Checkpoint(self.folder / f"{spec.key}.pt", spec, tell)

    def folder_of(self, spec: RunSpec) -> Path:
        """A run's own folder, where its function keeps what it needs; it need not be there.

        Its name has a digest of what `Checkpoint` says a checkpoint belongs to, so that none of other code is found.
        """
        of = (source_digest(spec.own_code), PACKAGE, torch.__version__, environment.processor(spec.device))
        return self.folder / f"{spec.key}-{hashlib.sha256(repr(of).encode()).hexdigest()[:16]}"

    def remove(self, spec: RunSpec) -> None:
        """To be called once a run is stored as complete, not before, so that no kill loses both."""
        remove_own(self.folder / f"{spec.key}.pt", _MAGIC)
        if spec.is_open_ended:
            for folder in self.folder.glob(f"{spec.key}-*"):
                _remove_folder(folder)

    def clear(self, complete: Container[str]) -> None:
        """Remove what kills left behind, while no run writes: files half written, and those of complete runs.

        Args:
            complete: The keys of complete runs.

        Raises:
            UsageError: The folder is a link. It may lead to files of others.
        """
        if self.folder.is_symlink():
            raise UsageError(f"{self.folder}: this is a link, and checkpoints need a folder: remove it")
        for path in self.folder.glob("*"):
            if path.is_dir() and not path.is_symlink():
                if path.name.partition("-")[0] in complete:
                    _remove_folder(path)
            elif _NAME.fullmatch(path.name) and (path.suffix != ".pt" or path.stem in complete):
                remove_own(path, _MAGIC)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


class _Hashing(io.RawIOBase):
    """A file that is only written to, from its beginning to its end, and the digest of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)


def _remove_folder(path: Path) -> None:
    """Remove a run's own folder, and what a link leads to never."""
    if re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{16}", path.name) and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)


def _package_digest() -> str:
    """A SHA-256 over this package's source, for a version number stays the same while the source is worked on."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    for path in sorted((*package.rglob("*.py"), *package.rglob("*.c"))):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


# As it was imported, and not as it may have become when a long run writes.
PACKAGE = _package_digest()
"""What tells one state of this package's source from another."""
