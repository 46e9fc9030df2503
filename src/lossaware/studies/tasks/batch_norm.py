"""A convolutional network with batch normalisation on scikit-learn's digits."""

from pathlib import Path

from torch import nn

from lossaware.studies.models.classification import classification
from lossaware.studies.specs.task import Data, InMemory, Task
from lossaware.studies.tasks import digits

SUMMARY = "Digits of 8 x 8 (part of scikit-learn) with convolutions and batch normalisation"


def build() -> Task:
    """Digits with batch norms. Their running statistics lag behind weights that change fast."""
    return Task(
        name="batch-norm",
        summary=SUMMARY,
        model=_model,
        data=load,
        measure=classification,
        epochs=8,
        batch_size=32,
        gamma2=1e-6,
    )


def load(folder: Path | None = None) -> Data:
    """The images of the task ``digits`` as (1, 8, 8). Needs no folder."""
    train, test = (InMemory((part.tensors[0].view(-1, 1, 8, 8), part.tensors[1])) for part in digits.read())
    return Data(train=train, test=test)


def _model() -> nn.Module:
    def stage(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    stages = [*stage(1, 16, 1), *stage(16, 32, 2), *stage(32, 32, 1), *stage(32, 64, 2)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
