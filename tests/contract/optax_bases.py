"""Optax's public optimizers: how to create each, and why LGA does not support the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from support import needs

needs("jax")
optax = needs("optax")
import optax.contrib as contrib  # noqa: E402

RATE = 0.01
_BY_RATE = """
adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam nadamw
noisy_sgd novograd optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam rmsprop rprop
scale_by_learning_rate sgd sign_sgd signum sm3 yogi
""".split()
_CONTRIB_BY_RATE = """
acprop ademamix adopt cocob dadapt_adamw madgrad momo momo_adam muon prodigy scale_by_madgrad schedule_free_adamw
schedule_free_sgd simplified_ademamix
""".split()
FURTHER: dict[str, Callable[[], Any]] = {
    "optimistic_adam": lambda: optax.optimistic_adam(RATE, optimism=0.5),
    "sgd with Nesterov momentum": lambda: optax.sgd(RATE, momentum=0.9, nesterov=True),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(RATE, 10)),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE)),
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(RATE), RATE),
    "mechanize": lambda: contrib.mechanize(optax.adam(RATE)),
    "identity": lambda: optax.identity(),
}
LEFT_OUT = {
    "lbfgs": "its line search asks for the function itself",
    "scale_by_rprop": "a part of rprop",
    "dpsgd": "reads a gradient for each example",
    "galore": "takes matrices alone",
    "scale_by_galore": "a part of galore",
    "sophia": "asks for the function itself",
}
"""Those with a learning rate that are not run, and why."""


def _by_rate(module: Any, names: list[str]) -> dict[str, Callable[[], Any]]:
    """Those that this version of optax has."""
    return {name: partial(getattr(module, name), RATE) for name in names if hasattr(module, name)}


BASES: dict[str, Callable[[], Any]] = {**_by_rate(optax, _BY_RATE), **_by_rate(contrib, _CONTRIB_BY_RATE), **FURTHER}
FAILS_ALONE = {
    "sm3": ("scalar", "nested", "zero-size"),
    "muon": ("zero-size",),
}
"""Parameters that an optimizer fails for by itself."""
