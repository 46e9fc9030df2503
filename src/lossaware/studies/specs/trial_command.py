"""A training command: a script that calls `lossaware.trial`, started by the user's command line."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.specs.run_spec import RunSpec


@dataclass(frozen=True)
class TrialCommand:
    """A command line with placeholders for the settings of a run.

    Attributes:
        template: The command: ``accelerate launch train.py --lr {lr} --seed {seed}``. It is not run by a shell.
    """

    template: str

    def __post_init__(self) -> None:
        if not self._words:
            raise UsageError('--command needs a command, such as "python train.py --lr {lr}"')

    @property
    def name(self) -> str:
        """The name of its script, or of the program."""
        scripts = [word for word in self._words if word.endswith(".py")]
        return Path(scripts[0]).stem if scripts else Path(self._words[0]).name

    @property
    def summary(self) -> str:
        """The command line."""
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
            UsageError: The comparison does not have the value of a placeholder.
        """
        for name, value, option in (("lr", spec.lr, "--lrs 1e-4,1e-3"), ("epochs", spec.epochs, "--epochs 10")):
            if f"{{{name}}}" in self.template and not value:
                raise UsageError(f"the command has the placeholder {{{name}}}: set {option}")
        values = {"lr": f"{spec.lr!r}", "seed": spec.seed, "arm": arm, "epochs": spec.epochs, "device": spec.device}
        return [_filled(word, {f"{{{name}}}": str(value) for name, value in values.items()}) for word in self._words]


def end_of(output: str, *, longest: int = 300) -> str:
    """The line of a program's output that explains its failure; empty if there is no output.

    This is the last line that has an exception, except launchers' ones; otherwise the last line.
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
