"""Epoch records from formulas, for tests of analysis and reports."""

import math
from collections.abc import Sequence

import torch

from lossaware.studies.models.classification import classification
from lossaware.studies.specs.arms import arms_of_gamma2, parse_arms
from lossaware.studies.specs.comparison import comparison
from lossaware.studies.specs.run_spec import EpochRecord
from lossaware.studies.specs.study import Metric, Study
from lossaware.studies.specs.task import Data, InMemory, Task
from support.made_up import MadeUp

ACCURACY = Metric("test", "accuracy", "final", percent=True, higher_is_better=True)
LOSS = Metric("train", "loss", "final", percent=False, higher_is_better=False)
Runs = Sequence[Sequence[EpochRecord]]
"""The records of each seed."""


def record(
    epoch: int, accuracy: float, *, loss: float | None = None, lga: dict[str, float] | None = None
) -> EpochRecord:
    scores = {"loss": 2.3 * (1 - accuracy) if loss is None else loss, "accuracy": accuracy}
    return EpochRecord(epoch, train=scores, test=dict(scores), lga=lga, seconds=0.1)


def status(epoch: int, *, open_share: float = 0.5, gamma2: float = 1e-6, steps: int = 1000) -> dict[str, float]:
    """LGA's status after an epoch of ``steps`` steps."""
    return {"gamma2": gamma2, "open_share": open_share, "steps": steps * epoch, "upper_bound": 2.3}


def run_of(accuracies: Sequence[float], with_lga: bool = False) -> list[EpochRecord]:
    return [record(i, a, lga=status(i) if with_lga else None) for i, a in enumerate(accuracies, 1)]


def rising(final: float, epochs: int = 10, speed: float = 0.4) -> list[float]:
    """A learning curve from 0.1 that ends at ``final``."""
    reached = 1 - math.exp(-speed * epochs)
    return [0.1 + (final - 0.1) * (1 - math.exp(-speed * e)) / reached for e in range(1, epochs + 1)]


def ending_at(finals: Sequence[float], *, lga: bool = False, epochs: int = 10) -> Runs:
    """Runs whose seeds end at ``finals``; with LGA they rise faster."""
    return [run_of(rising(final, epochs, 0.9 if lga else 0.4), lga) for final in finals]


def task(score: str = "accuracy") -> Task:
    """A task that is never trained."""
    examples = InMemory((torch.zeros(1),))
    return Task(
        name="digits",
        summary="",
        model=lambda: None,
        data=lambda folder: Data(examples, examples),
        measure=classification,
        score=score,
        higher_is_better=score != "loss",
        percent=score != "loss",
    )


def compared(
    *rows: tuple[Runs, *tuple[Runs, ...]],
    optimizers: Sequence[str] = ("sgd",),
    lrs: Sequence[float] = (1e-3,),
    gamma2s: Sequence[float | str] = (1e-6,),
    arms: str = "",
    score: str = "accuracy",
    epochs: int = 10,
    set_: str = "test",
    scheduler: str | None = None,
) -> tuple[Study, MadeUp]:
    """A comparison and its runs: for each optimizer and learning rate, those of each arm."""
    study = comparison(
        task(score),
        {"task": "digits", "epochs": epochs, "batch_size": 100, "seeds": len(rows[0][0])}
        | ({"scheduler": scheduler} if scheduler else {}),
        optimizers=optimizers,
        lrs=lrs,
        arms=parse_arms(arms) if arms else arms_of_gamma2(gamma2s),
        lga={"xi": 0.01},
    ).measuring(set=set_)
    results = MadeUp()
    for names, row in zip(study.rows, rows, strict=True):
        for column, runs in zip(study.columns, row, strict=True):
            for spec, records in zip(study.cells[names, column].specs, runs, strict=True):
                results.runs[spec] = records
    return study, results


BASE = [0.901, 0.905, 0.898, 0.902, 0.9, 0.904]


def pair(without: Sequence[float], with_: Sequence[float], epochs: int = 10) -> tuple[Runs, Runs]:
    """Runs without and with LGA that end at these accuracies."""
    return ending_at(without, epochs=epochs), ending_at(with_, lga=True, epochs=epochs)


def four_pairs() -> tuple[Study, MadeUp]:
    """Settings in which LGA helps, hurts, shows no difference, and is identical."""
    return compared(
        pair(BASE, [b + 0.02 + 0.001 * i for i, b in enumerate(BASE)]),
        pair(BASE, [b - 0.02 - 0.001 * i for i, b in enumerate(BASE)]),
        pair(BASE, [b + 0.003 * (-1) ** i for i, b in enumerate(BASE)]),
        pair(BASE, BASE),
        optimizers=("sgd", "adam"),
        lrs=(1e-4, 1e-3),
    )
