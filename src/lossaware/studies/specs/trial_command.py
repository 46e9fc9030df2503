"""A command that trains: a script that calls `lossaware.trial`, started as its user starts it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.specs.run_spec import RunSpec


@dataclass(frozen=True)
class TrialCommand:
    """A command line with places for what differs from run to run.

    Attributes:
        template: The command: ``accelerate launch train.py --lr {lr} --seed {seed}``. No shell reads it.
    """

    template: str

    def __post_init__(self) -> None:
        if not self._words:
            raise UsageError('--command wants a command, such as "python train.py --lr {lr}"')

    @property
    def name(self) -> str:
        """The name of its script, or of the program."""
        scripts = [word for word in self._words if word.endswith(".py")]
        return Path(scripts[0]).stem if scripts else Path(self._words[0]).name

    @property
    def summary(self) -> str:
        """The command as it is given."""
        return self.template

    @property
    def _words(self) -> list[str]:
        try:
            return shlex.split(self.template)
        except ValueError as error:
            raise UsageError(f"--command cannot be split into words ({error}): {self.template}") from None

    def words(self, spec: RunSpec, arm: str) -> list[str]:
        """The command of one run.

        Args:
            spec: The run.
            arm: The name of its arm.

        Raises:
            UsageError: The command has a place for what the comparison has not.
        """
        for name, value, option in (("lr", spec.lr, "--lrs 1e-4,1e-3"), ("epochs", spec.epochs, "--epochs 10")):
            if f"{{{name}}}" in self.template and not value:
                raise UsageError(f"the command has a place for {{{name}}}: say {option}")
        values = {"lr": f"{spec.lr!r}", "seed": spec.seed, "arm": arm, "epochs": spec.epochs, "device": spec.device}
        return [_filled(word, {f"{{{name}}}": str(value) for name, value in values.items()}) for word in self._words]


def end_of(output: str, *, longest: int = 300) -> str:
    """The line of a program's output that says best why it ended; empty where there is none.

    That is the last line of an exception, launchers' own excluded; else the last line.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = [line for line in map(_without_rank, lines) if _is_exception(line)]
    chosen = named[-1:] or lines[-1:]
    return "".join(chosen).removeprefix("lossaware.errors.")[:longest]


def _filled(word: str, values: dict[str, str]) -> str:
    for place, value in values.items():
        word = word.replace(place, value)
    return word


def _without_rank(line: str) -> str:
    """A line without the ``[rank0]:`` that torch puts before it."""
    return line.partition("]:")[2].strip() if line.startswith("[rank") else line


def _is_exception(line: str) -> bool:
    name = line.partition(":")[0]
    launchers = ("ChildFailedError", "CalledProcessError")
    return (
        name.replace(".", "").isidentifier()
        and name.endswith(("Error", "Exception"))
        and not any(each in line for each in launchers)
    )
