"""A training command: a script that calls `lossaware.trial`, started by the user's command line."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.run_spec import RunSpec

_PLACEHOLDERS = ("lr", "seed", "arm", "epochs", "device")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{([a-zA-Z_]\w*)\}")
"""A name in doubled braces, which stands for itself in single ones, or a placeholder."""


@dataclass(frozen=True)
class TrialCommand:
    """A command line with placeholders for the settings of a run.

    Attributes:
        template: The command: ``accelerate launch train.py --lr {lr} --seed {seed}``. It is not run by a shell.
            ``{{name}}`` is passed on as ``{name}``.

    Raises:
        UsageError: It is not a command, needs a shell, or has an unknown placeholder.
    """

    template: str

    def __post_init__(self) -> None:
        if not self._words:
            raise UsageError('--command needs a command, such as "python train.py --lr {lr}"')
        if re.match(r"[A-Za-z_]\w*=", self._words[0]):
            raise UsageError(f"--command: {self._words[0]} is not a program: start the command with env")
        if operator := _shell_operator(self.template):
            raise UsageError(
                f"--command is not run by a shell, so {operator} has no effect: use sh -c '...', or quote it if it is "
                "part of an argument"
            )
        for _, name in _PLACEHOLDER.findall(self.template):
            if name and name not in _PLACEHOLDERS:
                hint = did_you_mean(name, _PLACEHOLDERS)
                raise UsageError(
                    f"--command: unknown placeholder {{{name}}}{hint} (for the text itself: {{{{{name}}}}})"
                )

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
        return [
            _PLACEHOLDER.sub(lambda it: f"{{{it[1]}}}" if it[1] else str(values[it[2]]), word) for word in self._words
        ]


def end_of(output: str, *, longest: int = 300) -> str:
    """The line of a program's output that explains its failure; empty if there is no output.

    This is the last line that has an exception, except launchers' ones; otherwise the last line.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    exceptions = [line for line in map(_without_rank, lines) if _is_exception(line)]
    chosen = exceptions[-1:] or lines[-1:]
    return "".join(chosen).removeprefix("lossaware.errors.")[:longest]


def _shell_operator(command: str) -> str:
    """The first pipe, redirection or separator outside quotes; empty without one."""
    tokens = shlex.shlex(command, posix=False, punctuation_chars=";<>|&")
    tokens.whitespace_split = True
    tokens.commenters = ""
    try:
        return next((token for token in tokens if set(token) <= set(";<>|&")), "")
    except ValueError:  # an escaped quotation mark, which this mode does not know
        return ""


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
