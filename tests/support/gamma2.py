"""A rule with short statuses, and a small network, for tests of gamma2."""

import torch
from torch import nn

from lossaware import AutoGamma2

SHORT = AutoGamma2(reach=0.2, steps_at_least=4)  # a status every 4 steps


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
