"""A compiled step: base step, law and correction as one graph.

torch's ``step`` intentionally breaks the graph before and after itself, so hooks are a separate pass even if all is
compiled. Here the undecorated step is traced together with the law and the correction, so that the compiler can fuse
them. `benchmarks/` measures the cost compared with the base step alone.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._inductor import list_mode_options

from lossaware.attachment import Attachment
from lossaware.correction import is_push
from lossaware.errors import UsageError
from lossaware.hoisting import ScalarsFirst
from lossaware.law_state import LawState
from lossaware.step_hooks import StepHooks
from lossaware.stepper import ActiveGroup, Stepper


class CompiledStep:
    """The step from `LGA.compile`, called with the loss instead of ``optimizer.step(loss=loss)``.

    Each call is one step of the optimizer and of LGA. Compiled and other steps have the same state and can be mixed, so
    checkpoints, schedulers and the status work as before. The optimizer's first step runs uncompiled, to initialise its
    state; the next call compiles, and so does the first after a checkpoint was loaded. Values that change from step to
    step (learning rates, the loss, gamma2) are data of the graph, so they do not cause a recompilation, except if a
    group's gamma2 becomes 0 or nonzero. If the host knows the loss, it also knows whether the gate is open, and there
    are two graphs: the base step with the corrections, and the base step alone; each is compiled when it is first
    used. Losses on an accelerator are not waited for: there the law is part of a single graph. A step without a loss, a
    measured step (`LGA.measure_every`), and a fused base under a gradient scaler run uncompiled.

    Args:
        attachment: The attachment of an LGA to the optimizer.
        stepper: Its law and corrections.
        hooks: Its hooks, which receive losses and measure steps.
        options: Keyword arguments of ``torch.compile``; the defaults are those of ``compiler_arguments``.

    Raises:
        UsageError: Torch is older than 2.7, the optimizer has step hooks besides LGA's, which a graph of the step alone
            would not run, its own step reads the loss, the rule for gamma2 bounds it, or it has float64 parameters of
            shape () on the CPU and the backend is the default one.
            What comes later is refused at the next step.
    """

    def __init__(
        self,
        attachment: Attachment,
        stepper: Stepper,
        hooks: StepHooks,
        options: dict[str, Any],
    ) -> None:
        self._attachment = attachment
        self._stepper = stepper
        self._input = hooks.input
        self._hooks = hooks
        self._optimizer: Any = attachment.optimizer
        if torch.__version__ < _FIRST_TORCH:
            raise UsageError(
                f"lga.compile() needs torch {_FIRST_TORCH} or newer, and this is {torch.__version__}, whose compiler "
                f"cannot trace LGA's state: {_INSTEAD}"
            )
        if stepper.rule.moves_base:
            rule = type(stepper.rule).__name__
            raise UsageError(f"{rule} has no compiled step so far: use optimizer.step(loss=loss)")
        self._refuse_other_hooks()
        if self._input.base_takes_loss:
            raise UsageError(
                f"{self._name} reads the loss in its own step, which a graph of the step cannot: {_INSTEAD}"
            )
        self._drops_scalars = options.get("backend") in (None, "inductor")
        self._refuse_scalars()
        self._graph = torch.compile(_own_code(_graph(self._optimizer, stepper)), **compiler_arguments(options))
        self._numbers: list[dict[str, Tensor]] = []
        self._seed = torch.zeros((), dtype=torch.int64, device="cpu")
        self._has_state = False

    def __call__(self, loss: float | Tensor | None = None, *, scaler: torch.amp.GradScaler | None = None) -> None:
        """Perform one step.

        Args:
            loss: The loss of the step, as for `LGA.observe`; None if that was called.
            scaler: The gradient scaler, if any; its ``step`` then unscales the gradients, if they are still scaled, and
                skips the step if they overflow. Call its ``update`` afterwards, as usual.

        Raises:
            UsageError: The base optimizer cannot be traced, or changes numbers besides its learning rate at each step.
            ValueError: The loss is not a number, or arrives in two ways.
            RuntimeError: LGA is detached.
        """
        if scaler is None:
            self._step(loss=loss)
            return
        # The scaler calls the step of the optimizer whose gradients it scaled.
        own = vars(self._optimizer).get("step")
        self._optimizer.step = self._step
        try:
            scaler.step(self._optimizer, loss=loss)
        finally:
            if own is None:
                del self._optimizer.step
            else:
                self._optimizer.step = own

    @property
    def _name(self) -> str:
        return self._attachment.name

    def _refuse_other_hooks(self) -> None:
        for name in self._attachment.other_step_hooks():
            raise UsageError(
                f"{self._name} has step hooks that a compiled step would not run, such as {name}: {_INSTEAD}"
            )

    def _refuse_scalars(self) -> None:
        """torch.compile drops what a step writes to 0-dimensional float64 tensors of the optimizer's state on a CPU."""
        if not self._drops_scalars:
            return
        for p in (p for group in self._optimizer.param_groups for p in group["params"]):
            if p.dim() == 0 and p.dtype is torch.float64 and p.device.type == "cpu":
                raise UsageError(
                    f"{self._name} cannot be compiled together with LGA: it has a float64 parameter of shape () on the "
                    f"CPU, whose state torch.compile does not keep; give it the shape (1,), or {_INSTEAD}"
                )

    def _step(self, loss: float | Tensor | None) -> None:
        optimizer = self._optimizer
        self._attachment.refuse_detached()
        self._refuse_other_hooks()  # there may be new ones
        scaled = getattr(optimizer, "grad_scale", None) is not None or getattr(optimizer, "found_inf", None) is not None
        has_loss = loss is not None or self._input.has_observed
        # A step initialises the optimizer's state; the law has counted it, also if both come from a checkpoint.
        self._has_state = self._has_state or self._stepper.read_state().steps > 0
        if not self._has_state or not has_loss or scaled or self._hooks.meter.is_on:
            type(optimizer).step(optimizer, loss=loss)
        else:
            self._compiled_step(loss)
        optimizer._opt_called = True  # read by schedulers

    def _compiled_step(self, loss: float | Tensor | None) -> None:
        stepper = self._stepper
        sizes = stepper.sizes.of(self._optimizer.param_groups)
        value = self._input.take_directly(self._optimizer, loss)
        stepper.statuses.steps += 1
        if isinstance(value, float) and stepper.device_state is None:
            stepper.step_on_host(self._optimizer, value, _no_gradients, partial(self._run_on_host, sizes))
            return
        state_tensor = stepper.state_on(value.device if isinstance(value, Tensor) else torch.device("cpu"))
        value = value.to(state_tensor).reshape(1) if isinstance(value, Tensor) else state_tensor.new_full((1,), value)
        self._run(sizes, lambda tensors: self._graph(tensors, state_tensor, value, None, False))

    def _run_on_host(self, sizes: list[float], state: LawState, factor: float) -> None:
        amounts = [factor * size for size in sizes]
        pushes = all(is_push(amount) for amount in amounts if amount)
        self._seed.fill_(int(state.steps))
        self._run(amounts, lambda tensors: self._graph(tensors, None, None, self._seed, pushes))

    def _run(self, sizes: list[float], graph: Callable[[list[Tensor | None]], None]) -> None:
        """Run the graph on the sizes of the groups, or on their amounts; None for 0."""
        groups = self._optimizer.param_groups
        rates = [group.get("lr", 0.0) for group in groups]  # a base may have none
        numbers = self._as_tensors(rates, sizes)
        try:
            for group, tensors in zip(groups, numbers, strict=True):
                if "lr" in group:
                    group["lr"] = tensors["lr"]
            # A group that is switched off is left out, as in other steps: it has no means, and no number in the noise.
            graph([tensors["size"] if size else None for tensors, size in zip(numbers, sizes, strict=True)])
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise UsageError(
                f"{self._name} cannot be compiled together with LGA: numbers of its groups besides the learning rate "
                "change from step to step, and each change compiles again; keep them (OneCycleLR and CyclicLR: "
                f"cycle_momentum=False), or {_INSTEAD}"
            ) from error
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"{self._name} cannot be compiled together with LGA: {_INSTEAD} ({reason})") from error
        finally:
            for group, rate in zip(groups, rates, strict=True):
                if "lr" in group:
                    group["lr"] = rate

    def _as_tensors(self, rates: list[Any], sizes: list[float]) -> list[dict[str, Tensor]]:
        """Numbers that may change, as tensors, since Python numbers are constants of a graph."""
        if len(self._numbers) != len(rates):
            self._refuse_scalars()
            zero = torch.zeros((), dtype=torch.float64, device="cpu")  # bases accept a rate on the CPU
            self._numbers = [{name: zero.clone() for name in ("lr", "size")} for _ in rates]
        for tensors, rate, size in zip(self._numbers, rates, sizes, strict=True):
            if isinstance(rate, Tensor):
                tensors["lr"] = rate
            else:
                tensors["lr"].fill_(rate)
            tensors["size"].fill_(size)
        return self._numbers


_FIRST_TORCH = "2.7"
"""The compiler of torch 2.6 skips the methods of named tuples. For the tested versions see
``docs/frameworks/versions.md``."""
_INSTEAD = "use optimizer.step(loss=loss), whose correction is a separate but fast pass"


def compiler_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ``torch.compile`` that compile a step.

    One graph with fixed sizes; with the default backend, scalars are computed once (`lossaware.hoisting`), unless the
    options have their own ``post_grad_custom_post_pass``.

    Args:
        options: Keyword arguments that take precedence.
    """
    arguments = {"fullgraph": True, "dynamic": False, **options}
    if arguments.get("backend") in (None, "inductor"):
        mode = arguments.pop("mode", None)  # torch.compile takes a mode or options
        settings = {} if mode is None else list_mode_options(mode)
        settings["post_grad_custom_post_pass"] = ScalarsFirst()
        arguments["options"] = {**settings, **(arguments.get("options") or {})}
    return arguments


def _graph(optimizer: Any, stepper: Stepper) -> Callable[..., None]:
    """The traced function. It performs one step of the optimizer, its corrections, and the law unless the host has."""
    base_step = inspect.unwrap(type(optimizer).step)

    def step(
        sizes: list[Tensor | None], state_tensor: Tensor | None, loss: Tensor | None, seed: Tensor | None, pushes: bool
    ) -> None:
        with torch.no_grad():
            # Copies, as a base may write into the gradients. If it does not, the compiler removes the copies.
            gradients = [
                [None if p.grad is None else p.grad.clone() for p in g["params"]] for g in optimizer.param_groups
            ]
            base_step(optimizer)
            active: list[ActiveGroup] = [
                (group, size, [(p, g) for p, g in zip(group["params"], of_group, strict=True) if g is not None])
                for group, size, of_group in zip(optimizer.param_groups, sizes, gradients, strict=True)
                if size is not None
            ]
            correction = stepper.make_correction()
            # Not `Stepper.step`: it decides on the host where the state is and whether there is anything to push, and
            # the size of a group is a number to it. A graph would take all of this for constants.
            if state_tensor is not None and loss is not None:
                stepper.step_on_device(optimizer, state_tensor, loss[0], None, active, correction)
            elif seed is not None:
                correction.reseed(seed)
                stepper.correct(correction, optimizer, active, 1.0, pushes=pushes)

    return step


def _no_gradients(optimizer: Any) -> NoReturn:
    """A graph reads the gradients itself."""
    raise AssertionError


def _own_code(function: Callable[..., None]) -> Callable[..., None]:
    """The function with its own code object, since compiled graphs and their limit belong to the code."""
    function.__code__ = function.__code__.replace()
    return function
