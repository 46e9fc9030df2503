"""The command line, called in this process."""

from pathlib import Path

import pytest

from lossaware.cli import main


def lossaware(*arguments: str | Path) -> int:
    """The exit code of ``lossaware ARGUMENTS``."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def captured(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``lossaware ARGUMENTS``."""
    code = lossaware(*arguments)
    return code, *capsys.readouterr()
