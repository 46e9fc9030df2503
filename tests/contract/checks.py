"""Checks for every case. Each raises AssertionError."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cases import COMPILED_PATHS, Case
from layouts import bits
from runs import AUTO, BACKOFF, GAMMA2, LOSSES, STEPS_PER_EPOCH, XI, Array, Run, values

import reference
from support import default_dtype

RESUMED_AT = 4


def check_trajectory(case: Case, kernels: Any = None) -> None:
    """Each step is the base's own, of a twin that is put to the same place before, and the reference's correction."""
    ours, twin = Run(case), Run(case)
    ours.attach(kernels)
    judge = _Judge(ours)
    moved = 0.0
    for step, loss in enumerate(LOSSES):
        twin.copy_parameters(ours)
        for run in (ours, twin):
            run.set_gradients(step)
        if case.path in COMPILED_PATHS or case.optimizer == "ASGD":
            twin.copy_state(ours)
        gradients = [values(p.grad) for p in ours.params if p.grad is not None]
        known = [bits(place.memory) for place in ours.gradients]
        ours.step(loss)
        twin.optimizer.step()
        pushes = judge.pushes(loss, gradients)
        for number, (p, base, own) in enumerate(zip(ours.params, twin.params, pushes, strict=True)):
            _compare(case, f"step {step}, parameter {number}", p, values(base), own)
            moved = max(moved, *(float(np.abs(push).max(initial=0.0)) for push in own))
        if case.optimizer == "ASGD":
            for number, (p, base) in enumerate(zip(ours.params, twin.params, strict=True)):
                average, expected = ours.optimizer.state[p]["ax"], values(twin.optimizer.state[base]["ax"])
                _compare(case, f"step {step}, average {number}", average, expected, [judge.own[number]])
        assert all(place.neighbours_are_unchanged() for place in ours.places), "memory next to a parameter changed"
        if not case.writes_gradients:
            after = [bits(place.memory) for place in ours.gradients]
            assert all(map(torch.equal, known, after)), "a gradient changed"
    assert moved > 1e-3 or not any(p.numel() for p in ours.params)


def check_base(case: Case, kernels: Any = None) -> None:
    """Without a loss, and with gamma2 of 0, parameters and state are bitwise equal to those of the base."""
    runs = {name: Run(case) for name in ("base", "no loss", "gamma2 of 0")}
    runs["no loss"].attach(kernels)
    off = runs["gamma2 of 0"]
    if case.gamma2 == "auto":
        off.optimizer.param_groups[0]["gamma2"] = 0
        off.attach(kernels)
    else:
        off.attach(kernels, gamma2=0.0)
    runs["no loss"].step = lambda _: runs["no loss"].optimizer.step()
    if case.path in COMPILED_PATHS:  # whose base is fused, and rounds otherwise
        del runs["gamma2 of 0"]
    for step, loss in enumerate(LOSSES[:4]):
        for run in runs.values():
            run.set_gradients(step)
            run.step(loss)
    base = runs.pop("base").bits()
    for name, run in runs.items():
        assert all(map(torch.equal, run.bits(), base)), f"{name}: not the base's bits"


def check_resume(case: Case, kernels: Any = None) -> None:
    """A run from a checkpoint in the middle of a status ends with the bits of one that went through."""
    # Torch makes some scalars of states in the default dtype, and loads them in that of the parameters.
    with default_dtype(torch.float64 if case.dtype == "float64" else torch.float32):
        _check_resume(case, kernels)


def _check_resume(case: Case, kernels: Any) -> None:
    through = Run(case)
    through.attach(kernels)
    other = through
    for step, loss in enumerate(LOSSES):
        if step == RESUMED_AT:
            other = through.resumed(kernels)
        for run in {id(run): run for run in (through, other)}.values():
            run.set_gradients(step)
            run.step(loss)
    assert all(map(torch.equal, other.bits(), through.bits())), "other bits after a resume"
    assert through.lga is not None
    assert other.lga is not None
    assert other.lga.status == through.lga.status


CHECKS = {"trajectory": check_trajectory, "base": check_base, "resume": check_resume}


def checks_of(case: Case) -> list[str]:
    """The names of the checks that hold for a case."""
    return [name for name in CHECKS if name != "resume" or case.base_resumes_exactly]


class _Judge:
    """The reference's corrections for the parameters of a run."""

    def __init__(self, run: Run) -> None:
        self._params = run.params
        group = run.optimizer.param_groups[0]
        self._direction = -1.0 if group.get("maximize") else 1.0
        self._is_sparse = run.case.is_sparse
        self._auto: list[reference.SelfSet] = []
        self._law = reference.Law(STEPS_PER_EPOCH, GAMMA2, xi=XI, backoff=BACKOFF)
        if run.case.gamma2 == "auto":
            squares = sum(float((values(p) ** 2).sum()) for p in run.params)
            scale = max((squares / max(sum(p.numel() for p in run.params), 1)) ** 0.5, 1e-3)
            momentum = 0.0 if self._is_sparse else AUTO.momentum  # sparse gradients are read without a mean
            self._auto = [reference.SelfSet(STEPS_PER_EPOCH, scale, momentum=momentum) for _ in run.params]
        self.own: list[Array] = []
        """Of each parameter at the last step."""

    def pushes(self, loss: float, gradients: list[Array]) -> list[list[Array]]:
        """The difference of each parameter: its own push, and those of other parameters in the same memory."""
        descents = [self._direction * g for g in gradients]
        if self._auto:
            own = [auto.correction(auto.share(loss), g) for auto, g in zip(self._auto, descents, strict=True)]
        else:
            omega = self._law.omega(loss)
            own = [self._law.correction(omega, g) for g in descents]
        if self._is_sparse:  # only the stored rows
            own = [push * _stored(p) for push, p in zip(own, self._params, strict=True)]
        self.own = own
        places = [(p.data_ptr(), p.shape) for p in self._params]
        return [[push for push, other in zip(own, places, strict=True) if other == place] for place in places]


def _stored(p: torch.nn.Parameter) -> Array:
    assert p.grad is not None
    rows = torch.zeros(p.shape)
    rows[p.grad.coalesce().indices()[0]] = 1.0
    return values(rows)


def _compare(case: Case, what: str, parameter: torch.Tensor, base: Array, pushes: list[Array]) -> None:
    push, after = np.sum(pushes, axis=0), values(parameter)
    expected = base - push
    if case.path not in COMPILED_PATHS and not any(one.any() for one in pushes):
        np.testing.assert_array_equal(after, base, err_msg=f"{what}: not the base's")
        return
    real = torch.float32 if parameter.dtype.is_complex else parameter.dtype
    eps, is_narrow = torch.finfo(real).eps, real.itemsize == 2
    size = np.maximum(np.abs(expected), np.maximum(np.abs(base), np.abs(after)))
    if len(pushes) > 1:  # each is rounded, at any position
        size = np.maximum(size, np.abs(base) + np.sum(np.abs(pushes), axis=0))
    unit = eps * 2.0 ** np.floor(np.log2(np.maximum(size, torch.finfo(real).tiny)))
    units = (1.001 if is_narrow else 4.0) * len(pushes)  # 16 bits are rounded at random, to one of two neighbours
    if case.path in COMPILED_PATHS:
        units += 4 * len(pushes)  # the base is computed in another order
    allowed = units * unit + (8 * eps * np.abs(push) if case.gamma2 == "auto" or not is_narrow else 0.0)
    worst = np.abs(after - expected) / allowed
    assert (worst <= 1).all(), f"{what}: off by {worst.max():.3g} times what is allowed; {after} in place of {expected}"
