"""DenseNet for images of 32 x 32 (Huang et al., 2017), without bottlenecks and compression."""

import torch
from torch import Tensor, nn

from lossaware.studies.models.initialisation import he_normal


def densenet(classes: int = 10, depth: int = 40, growth: int = 12, dropout: float = 0.0) -> nn.Sequential:
    """DenseNet, by default DenseNet-40-12 with 1,019,722 parameters.

    Returns (batch, classes) for images (batch, 3, 32, 32). Initialised as in He et al. (`he_normal`).

    Args:
        classes: Number of outputs.
        depth: Layers with weights; 4 more than a multiple of 3.
        growth: Channels that each dense layer adds.
        dropout: Dropout probability of a dense layer's outputs. Huang et al. use 0.2 without augmentation.

    Raises:
        ValueError: ``depth`` is not 4 more than a multiple of 3.
    """
    if depth < 7 or (depth - 4) % 3:
        raise ValueError(f"depth must be 4 more than a multiple of 3, got {depth}")
    channels = 16
    stages: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for block in range(3):
        for _ in range((depth - 4) // 3):
            stages.append(_DenseLayer(channels, growth, dropout))
            channels += growth
        stages += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        if block < 2:
            stages += [nn.Conv2d(channels, channels, 1, bias=False), nn.Dropout(dropout), nn.AvgPool2d(2)]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    he_normal(net)
    # On a CPU this is a third faster than the default layout, and computes the same function.
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return net


class _DenseLayer(nn.Module):
    """Adds ``growth`` channels, computed from all existing ones."""

    def __init__(self, channels: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, growth, 3, padding=1, bias=False),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], dim=1)
