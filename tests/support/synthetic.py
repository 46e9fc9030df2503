"""Epoch records made of formulas, for tests of what comes after the runs."""

import math
from collections.abc import Sequence

from lossaware.studies.analysis.paired import Arm, Measure, Pair
from lossaware.studies.specs.run_spec import EpochRecord

ACCURACY = Measure("accuracy", "test", higher_is_better=True, percent=True)
LOSS = Measure("loss", "train", higher_is_better=False, percent=False)


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


def arm(finals: Sequence[float], *, lga: bool = False, epochs: int = 10, speed: float = 0.4, label: str = "") -> Arm:
    """An arm whose seeds end at ``finals``."""
    return Arm(
        label=label or ("with LGA" if lga else "without"),
        runs={seed: run_of(rising(final, epochs, speed), lga) for seed, final in enumerate(finals)},
        lga={"gamma2": 1e-6, "xi": 0.01} if lga else None,
    )


def pair(without: Sequence[float], with_: Sequence[float], *, optimizer: str = "sgd", lr: str = "1e-3") -> Pair:
    return Pair({"optimizer": optimizer, "lr": lr}, arm(without), arm(with_, lga=True, speed=0.9), epochs=10)


BASE = [0.901, 0.905, 0.898, 0.902, 0.9, 0.904]


def four_pairs() -> list[Pair]:
    """Helps, hurts, shows nothing, and is identical."""
    return [
        pair(BASE, [b + 0.02 + 0.001 * i for i, b in enumerate(BASE)], lr="1e-4"),
        pair(BASE, [b - 0.02 - 0.001 * i for i, b in enumerate(BASE)], lr="1e-3"),
        pair(BASE, [b + 0.003 * (-1) ** i for i, b in enumerate(BASE)], optimizer="adam", lr="1e-4"),
        pair(BASE, BASE, optimizer="adam", lr="1e-3"),
    ]
