"""A comparison: a study in memory whose cells are each optimizer and learning rate, without LGA and with it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from lossaware.errors import UsageError
from lossaware.studies.specs.formatting import number, size
from lossaware.studies.specs.study import Study, make_study
from lossaware.studies.specs.study_file import Point, Settings, Shown, StudyFile, explain
from lossaware.studies.specs.task import Subject
from lossaware.studies.specs.trial_function import SCORE

WITHOUT = "without"
"""The column of the runs without LGA; the others are called by their gamma2."""

T = TypeVar("T")


def comparison(
    subject: Subject,
    settings: Mapping[str, Any],
    *,
    optimizers: Sequence[str],
    lrs: Sequence[float],
    gamma2s: Sequence[float | str],
    lga: Mapping[str, Any] | None = None,
) -> Study:
    """Every optimizer at every learning rate, without LGA and with it at every gamma2.

    Args:
        subject: The task, loaded; its score on the test set is compared.
        settings: Settings of all runs, by their names in `Settings`: ``task``, ``epochs``, ``batch_size`` and
            ``seeds`` must be among them.
        optimizers: Names of base optimizers.
        lrs: Learning rates, above 0.
        gamma2s: Sizes of LGA's correction, at least 0, or ``"auto"``.
        lga: LGA's other arguments, as in `RunSpec`.

    Raises:
        UsageError: A setting does not exist, or has a value that is not allowed.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    measure = Shown(
        set="test",
        name=subject.score,
        percent=subject.percent,
        higher_is_better=subject.higher_is_better,
        at="final",
    )
    try:
        axes = _axes(optimizers, lrs, gamma2s, lga or {})
        file = _file(subject.name, Settings.model_validate(given), measure, axes)
    except ValidationError as error:
        raise UsageError(f"compare: {explain(error)}") from None
    return make_study(file, "comparison", "compare")


def trial_comparison(
    name: str,
    kind: Literal["function", "command"],
    settings: Mapping[str, Any],
    *,
    lrs: Sequence[float],
    gamma2s: Sequence[float | str],
    lga: Mapping[str, Any] | None = None,
) -> Study:
    """The same for a function or a command that trains, which has its optimizer itself.

    The name of its score is not known until it has run; see `scored`.

    Args:
        name: Of the function or command.
        kind: Which of the two.
        settings: As for `comparison`; ``task`` is the place of the function, or the command; ``epochs`` and
            ``batch_size`` are 0 where it decides.
        lrs: Learning rates; 0 alone where the function has its own.
        gamma2s: As for `comparison`; or `AS_CODED`.
        lga: Arguments that go over those in the function's code.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    measure = Shown.model_construct(set="reported", name=SCORE, percent=False, higher_is_better=True, at="final")
    axes = _axes([""], lrs, gamma2s, lga or {})
    file = _file(name, Settings.model_construct(**given), measure, axes)
    return make_study(file, "comparison", "compare", kind)


def scored(study: Study, subject: Subject) -> Study:
    """The comparison of a function or command with the score that its runs turned out to have."""
    return study.measuring(name=subject.score, percent=subject.percent, higher_is_better=subject.higher_is_better)


def _axes(
    optimizers: Sequence[str], lrs: Sequence[float], gamma2s: Sequence[float | str], lga: Mapping[str, Any]
) -> dict[str, dict[str, Point]]:
    columns = {WITHOUT: Point(lga=False)}
    for name, gamma2 in _named(gamma2s, size).items():
        columns[name] = Point(lga={**lga, "gamma2": gamma2})
    return {
        "optimizer": {name: Point(optimizer=name) for name in optimizers},
        # A learning rate of 0 stands for the function's own, which no file of a study may say.
        "lr": {name: Point(lr=lr) if lr else Point.model_construct(lr=lr) for name, lr in _named(lrs, number).items()},
        "gamma2": columns,
    }


def _file(name: str, base: Settings, measure: Shown, axes: dict[str, dict[str, Point]]) -> StudyFile:
    return StudyFile(
        title=f"Does LGA help on {name}?",
        rows=["optimizer", "lr"],
        columns=["gamma2"],
        base=base,
        measure=measure,
        axes=axes,
    )


def _named(values: Sequence[T], show: Callable[[T], str]) -> dict[str, T]:
    """The values by how people write them; with all digits where two would have the same name."""
    shown = [show(value) for value in values]
    return {text if shown.count(text) == 1 else repr(value): value for text, value in zip(shown, values, strict=True)}
