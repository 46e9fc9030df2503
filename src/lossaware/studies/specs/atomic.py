"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path

from lossaware.errors import UsageError


def umask() -> int:
    """The permissions that new files of this process do not get. Temporary files get fewer than others."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file, or make it, so that whoever reads it sees all of the old content or all of the new.

    Args:
        path: The file; its folder is made where it is not there.
        content: Text is written as UTF-8, its ends of line as they are.

    Raises:
        UsageError: The folder cannot be written to, or the disk is full; an old file is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o666 & ~umask())
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from None
