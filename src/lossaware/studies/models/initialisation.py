"""The initialisation that the papers of residual and dense networks name."""

from torch import nn


def he_normal(net: nn.Module) -> None:
    """Initialisation of He et al. (2015), as in the published code of both network families.

    Convolutions: normal, variance 2 / (outputs x kernel area). Batch norms: 1 and 0. Linear layers: torch's default
    weights, biases 0.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
