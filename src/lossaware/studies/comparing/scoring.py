"""The score of a training function, and its direction."""

from collections.abc import Sequence
from dataclasses import dataclass

from lossaware.errors import UsageError
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.run_spec import EpochRecord
from lossaware.studies.specs.trial_command import TrialCommand
from lossaware.studies.specs.trial_function import SCORE, TrialFunction


@dataclass(frozen=True)
class Scored:
    """A `lossaware.studies.specs.task.Subject` of reports."""

    name: str
    summary: str
    score: str
    higher_is_better: bool
    percent: bool


@dataclass(frozen=True)
class Scoring:
    """Settings of the score.

    Attributes:
        maximize: Whether a larger score is better.
        score: The name of a reported number; None for the returned number.
        percent: Whether to show it as a percentage; by default for an accuracy in [0, 1].
    """

    maximize: bool
    score: str | None = None
    percent: bool | None = None

    @classmethod
    def of(cls, direction: str | None, score: str | None = None, percent: bool | None = None) -> "Scoring":
        """The scoring with a direction, ``"maximize"`` or ``"minimize"``.

        Raises:
            UsageError: The direction is neither.
        """
        if direction not in ("maximize", "minimize"):
            raise UsageError(
                "--direction must be maximize or minimize, by whether a higher score is better, "
                f"got {direction or 'none'}"
            )
        return cls(direction == "maximize", score, percent)

    def subject(self, function: TrialFunction | TrialCommand, runs: Sequence[Sequence[EpochRecord]]) -> Scored:
        """Description of a function for reports, from its complete runs.

        If all runs reported the returned number under one name after the last epoch, it has this name: then there is
        a curve. If nothing was returned, as by a command, the score is the only reported number besides the loss.

        Raises:
            UsageError: No run reported the requested score; or the score is ambiguous.
        """
        last = [run[-1].test for run in runs if run]
        name = self.score or SCORE
        if self.score is not None and last and not any(self.score in values for values in last):
            known = sorted({key for values in last for key in values})
            raise UsageError(f"no run reported {self.score!r}{did_you_mean(self.score, known)}")
        if self.score is None and last:
            same = [
                key
                for key in last[0]
                if key != SCORE and all(SCORE in each and each.get(key) == each[SCORE] for each in last)
            ]
            name = same[0] if len(same) == 1 else name
            if not any(SCORE in each for each in last):
                name = _only_one([key for key in last[0] if all(key in each for each in last)])
        percent = self.percent
        if percent is None:
            percent = "acc" in name.lower() and all(0 <= each.get(name, 0.0) <= 1 for each in last)
        return Scored(function.name, function.summary, name, self.maximize, percent)


def _only_one(names: Sequence[str]) -> str:
    """The score among the reported numbers."""
    candidates = [name for name in names if "loss" not in name] or list(names)
    if len(candidates) != 1:
        raise UsageError(
            f"several numbers were reported ({', '.join(names)}): choose one, for example by --score {candidates[0]}"
        )
    return candidates[0]
