"""A comparison: a study in memory, with one cell per optimizer, learning rate and arm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from lossaware.errors import UsageError
from lossaware.studies.specs.arms import Arm
from lossaware.studies.specs.formatting import number
from lossaware.studies.specs.run_spec import AS_CODED
from lossaware.studies.specs.study import Study, make_study
from lossaware.studies.specs.study_file import MetricSettings, Point, Settings, StudyFile, explain
from lossaware.studies.specs.task import Subject
from lossaware.studies.specs.trial_function import SCORE

T = TypeVar("T")


def comparison(
    subject: Subject,
    settings: Mapping[str, Any],
    *,
    optimizers: Sequence[str],
    lrs: Sequence[float],
    arms: Sequence[Arm],
    gamma2: float | str = 1e-8,
    optimizer_options: Mapping[str, Any] | None = None,
    lga: Mapping[str, Any] | None = None,
) -> Study:
    """The study of every optimizer at every learning rate, in every arm.

    Args:
        subject: The task, loaded; its score on the test set is compared.
        settings: Settings of all runs, by their names in `Settings`: ``task``, ``epochs``, ``batch_size`` and
            ``seeds`` must be among them.
        optimizers: Names of base optimizers; only ``""`` if every arm has its own.
        lrs: Learning rates, above 0; only 0 if every arm has its own.
        arms: At least two; the first is the reference.
        gamma2: The gamma2 of the arm ``lga``.
        optimizer_options: Keyword arguments of the base, for arms that do not name their own base.
        lga: LGA's other arguments, see `RunSpec`.

    Raises:
        UsageError: A setting does not exist, or has a value that is not allowed.
    """
    known = {name: value for name, value in settings.items() if value is not None}
    measure = MetricSettings(
        set="test",
        name=subject.score,
        percent=subject.percent,
        higher_is_better=subject.higher_is_better,
        at="final",
    )
    try:
        set_ = [replace(arm, gamma2=gamma2) if arm.gamma2 == AS_CODED else arm for arm in arms]
        axes = _axes(optimizers, lrs, set_, lga or {}, optimizer_options or {})
        file = _file(subject.name, arms, Settings.model_validate(known), measure, axes)
    except ValidationError as error:
        raise UsageError(f"compare: {explain(error)}") from None
    return replace(make_study(file, "comparison", "compare"), reference=arms[0].name)


def trial_comparison(
    name: str,
    kind: Literal["function", "command"],
    settings: Mapping[str, Any],
    *,
    lrs: Sequence[float],
    arms: Sequence[Arm],
    lga: Mapping[str, Any] | None = None,
) -> Study:
    """Like `comparison`, for a training function or command, which makes its optimizer itself.

    The name of its score is not known before it has run; see `scored`.

    Args:
        name: Name of the function or command.
        kind: Whether it is a function or a command.
        settings: See `comparison`; ``task`` is the place of the function, or the command; ``epochs`` and
            ``batch_size`` are 0 if the function determines them.
        lrs: Learning rates; only 0 if the function, or every arm, has its own.
        arms: See `comparison`.
        lga: Arguments that override those in the function's code.
    """
    chosen = {key: value for key, value in settings.items() if value is not None}
    measure = MetricSettings.model_construct(
        set="reported", name=SCORE, percent=False, higher_is_better=True, at="final"
    )
    axes = _axes([""], lrs, arms, lga or {}, {})
    file = _file(name, arms, Settings.model_construct(**chosen), measure, axes)
    return replace(make_study(file, "comparison", "compare", kind), reference=arms[0].name)


def scored(study: Study, subject: Subject) -> Study:
    """The comparison of a function or command with the score of its runs."""
    return study.measuring(name=subject.score, percent=subject.percent, higher_is_better=subject.higher_is_better)


def _axes(
    optimizers: Sequence[str],
    lrs: Sequence[float],
    arms: Sequence[Arm],
    lga: Mapping[str, Any],
    optimizer_options: Mapping[str, Any],
) -> dict[str, dict[str, Point]]:
    return {
        "optimizer": {name: Point(optimizer=name) for name in optimizers},
        # A learning rate of 0 means the function's own, which is not allowed in a study's file.
        "lr": {
            name: Point(lr=lr) if lr else Point.model_construct(lr=lr) for name, lr in _by_notation(lrs, number).items()
        },
        "arm": {arm.name: _point(arm, lga, optimizer_options) for arm in arms},
    }


def _point(arm: Arm, lga: Mapping[str, Any], optimizer_options: Mapping[str, Any]) -> Point:
    values: dict[str, Any] = {"lga": False if arm.gamma2 is None else {**lga, "gamma2": arm.gamma2}}
    values["optimizer_options"] = dict(optimizer_options if arm.optimizer is None else arm.options)
    if arm.optimizer is not None:
        values["optimizer"] = arm.optimizer
    if arm.lr is not None:
        values["lr"] = arm.lr
    return Point(**values)


def _file(
    name: str, arms: Sequence[Arm], base: Settings, measure: MetricSettings, axes: dict[str, dict[str, Point]]
) -> StudyFile:
    first, *others = arms
    better = others[0].name if len(others) == 1 else "another arm"
    is_about_lga = first.gamma2 is None and all(arm.gamma2 is not None for arm in others)
    is_about_lga &= all(arm.optimizer is None for arm in arms)
    return StudyFile(
        title=f"Does LGA help on {name}?" if is_about_lga else f"Is {better} better than {first.name} on {name}?",
        rows=["optimizer", "lr"],
        columns=["arm"],
        base=base,
        measure=measure,
        axes=axes,
    )


def _by_notation(values: Sequence[T], show: Callable[[T], str]) -> dict[str, T]:
    """The values by their usual notation; with all digits if two would have the same name."""
    texts = [show(value) for value in values]
    return {text if texts.count(text) == 1 else repr(value): value for text, value in zip(texts, values, strict=True)}
