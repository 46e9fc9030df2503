"""Every option set of torch's own test database of optimizers, and the capabilities of each optimizer.

The database, ``torch.testing._internal.common_optimizers.optim_db``, is private, takes seconds to import, and changes
torch's global flags. So its option sets are copied here, so that test names do not depend on torch's version;
`test_option_sets` compares them with the database.
"""

from __future__ import annotations

from typing import Any

import torch

TENSOR_RATE = torch.tensor(0.001)

OPTION_SETS: dict[str, dict[str, dict[str, Any]]] = {
    "Adadelta": {
        "default": {},
        "non-default-lr": {"lr": 0.01},
        "nonzero-weight_decay": {"weight_decay": 0.1},
        "maximize": {"maximize": True},
        "maximize-weight_decay": {"weight_decay": 0.1, "maximize": True},
        "rho": {"rho": 0.95, "weight_decay": 0.9},
    },
    "Adafactor": {
        "default": {},
        "nonzero-weight_decay": {"weight_decay": 0.1, "lr": 0.01},
        "maximize": {"weight_decay": 0.1, "maximize": True},
        "non-default-beta2_decay": {"beta2_decay": -1.0},
        "non-default-clipping-threshold-d": {"d": 1.5},
    },
    "Adagrad": {
        "default": {},
        "nonzero-weight_decay": {"weight_decay": 0.1},
        "maximize": {"weight_decay": 0.1, "maximize": True},
        "non-default-lr": {"lr": 0.1},
        "initial_accumulator_value": {"initial_accumulator_value": 0.1, "weight_decay": 0.1},
        "lr_decay": {"lr": 0.1, "lr_decay": 0.5, "weight_decay": 0.1},
        "Tensor-lr": {"lr": TENSOR_RATE},
    },
    "Adam": {
        "default": {},
        "non-default-lr": {"lr": 0.01},
        "nonzero-weight_decay": {"weight_decay": 0.1},
        "maximize": {"weight_decay": 0.1, "maximize": True},
        "amsgrad": {"weight_decay": 0.1, "amsgrad": True},
    },
    "Adamax": {
        "default": {},
        "non-default-lr": {"lr": 0.1},
        "nonzero-weight_decay": {"weight_decay": 0.1},
        "maximize": {"maximize": True},
        "maximize-weight_decay": {"weight_decay": 0.1, "maximize": True},
    },
    "AdamW": {
        "default": {},
        "non-default-lr": {"lr": 0.01},
        "nonzero-weight_decay": {"weight_decay": 0.1},
        "maximize": {"weight_decay": 0.1, "maximize": True},
        "amsgrad": {"weight_decay": 0.1, "amsgrad": True},
    },
    "ASGD": {
        "default": {},
        "non-default-lambd": {"lambd": 0.1},
        "non-default-lr": {"lr": 0.02},
        "t0": {"t0": 100},
        "maximize": {"maximize": True},
        "nonzero-weight_decay": {"weight_decay": 0.1},
        "maximize-nonzero-weight_decay": {"weight_decay": 0.1, "maximize": True},
    },
    "LBFGS": {
        "default": {},
        "non-default-lr": {"lr": 0.01},
        "Tensor-lr": {"lr": TENSOR_RATE},
        "tolerance_grad": {"tolerance_grad": 1e-06},
        "strong_wolfe": {"line_search_fn": "strong_wolfe"},
    },
    "Muon": {
        "default": {},
        "non-default-lr": {"lr": 0.01},
        "Tensor-lr": {"lr": TENSOR_RATE},
        "non-default-weight_decay": {"weight_decay": 0.2},
        "non-default-momentum": {"momentum": 0.8},
        "passing-alternative-ns_steps": {"ns_steps": 6},
        "passing-alternative-ns_coefficients": {"ns_coefficients": (3.4, -4.7, 2.0)},
    },
    "NAdam": {
        "default": {},
        "non-default-lr": {"lr": 0.001},
        "non-zero-momentum_decay": {"momentum_decay": 0.006},
        "weight_decay": {"weight_decay": 0.1},
        "weight_decay-momentum_decay": {"weight_decay": 0.1, "momentum_decay": 0.006},
        "decoupled_weight_decay": {"weight_decay": 0.1, "momentum_decay": 0.006, "decoupled_weight_decay": True},
        "maximize": {"weight_decay": 0.1, "maximize": True},
    },
    "RAdam": {
        "default": {},
        "non-default-lr": {"lr": 0.002},
        "non-default-eps": {"eps": 1e-06},
        "nonzero-weight_decay": {"weight_decay": 0.1},
        "decoupled_weight_decay": {"weight_decay": 0.1, "decoupled_weight_decay": True},
        "maximize": {"weight_decay": 0.1, "maximize": True},
    },
    "RMSprop": {
        "default": {},
        "non-default-lr": {"lr": 0.001},
        "nonzero-weight_decay": {"weight_decay": 0.1},
        "maximize": {"maximize": True},
        "centered": {"weight_decay": 0.1, "centered": True},
        "maximize-weight_decay": {"maximize": True, "weight_decay": 0.1},
        "momentum": {"weight_decay": 0.1, "centered": True, "momentum": 0.1},
        "maximize-centered-weight_decay-w-momentum": {
            "weight_decay": 0.1,
            "centered": True,
            "momentum": 0.1,
            "maximize": True,
        },
    },
    "Rprop": {
        "default": {},
        "non-default-lr": {"lr": 0.0002},
        "non-default-etas": {"etas": (0.5, 1.5)},
        "non-default-step_sizes": {"step_sizes": (2e-06, 100)},
        "maximize": {"maximize": True},
    },
    "SGD": {
        "default": {},
        "non-default-lr": {"lr": 0.01},
        "tensor-lr": {"lr": TENSOR_RATE},
        "non-zero-weight_decay": {"weight_decay": 0.5},
        "momentum": {"momentum": 0.9},
        "maximize": {"weight_decay": 0.1, "maximize": True},
        "dampening": {"momentum": 0.9, "dampening": 0.5},
        "weight_decay-w-momentum": {"momentum": 0.9, "weight_decay": 0.1},
        "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    },
    "SparseAdam": {
        "default": {},
        "non-default-lr": {"lr": 0.01},
        "Tensor-lr": {"lr": TENSOR_RATE},
        "maximize": {"maximize": True},
    },
}

FOREACH = {
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "AdamW",
    "ASGD",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
}
"""Those that have torch's foreach form in addition to the loop."""
FUSED = {"Adagrad", "Adam", "AdamW", "SGD"}
"""Those that have a fused form on a CPU."""
REAL_ONLY = {"Adafactor", "Muon", "SparseAdam"}
"""Those that refuse or spoil complex parameters by themselves."""
SPARSE_ONLY = {"SparseAdam"}
"""Those that only support sparse gradients."""
REFUSED = {"LBFGS"}
"""Those that LGA cannot go with."""
