"""LGA as a companion of an optimizer, as a learning-rate scheduler is: it attaches by step hooks and wraps nothing."""

import inspect
import math
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import ASGD, LBFGS, Optimizer

from lossaware.correction import Correction
from lossaware.gamma2 import SelfSet, make_strategy, scale_of
from lossaware.gradients import StepGradients
from lossaware.losses import LossValue, ObservedLosses, is_shared, mean_over_ranks, read_loss, wide
from lossaware.means import RunningMeans
from lossaware.meter import Measurement, UpdateMeter
from lossaware.notices import BackoffNotice, StatusNotice
from lossaware.status import HOST, Law, LowerBound, State, Status, make_lower_bound, summarize

if TYPE_CHECKING:
    from lossaware.compiled import CompiledStep
    from lossaware.kernels import Launcher

_ZERO_GRADIENT = ("push", "rest")


class LGA:
    """Makes an optimizer loss-aware: after each step, p <- p - gamma2 * Omega(loss) / phi(gradient) (Eq. 2).

    The optimizer stays what it was; schedulers, gradient scalers and checkpoints go on working with it. The loss
    arrives in one of three ways, once a step: ``optimizer.step(loss=loss)``, ``optimizer.step(closure)``, or
    ``lga.observe(loss)`` before the step, where several micro-batches count with their mean. Under
    ``torch.distributed`` the mean over the ranks counts, so every rank must hand over its loss at the same steps; where
    one has none, no rank makes a correction. A step without a loss is exactly the base optimizer's.

    A parameter group may carry its own ``"gamma2"``; 0 switches LGA off for the group. Gradients are taken as they are
    when the optimizer steps: unscaled, and clipped if they were clipped. Where the optimizer maximizes, the push goes
    its way, up. Parameters of 16 bits are rounded stochastically, because a push is far below their resolution.

    Args:
        optimizer: Any ``torch.optim.Optimizer`` but LBFGS.
        steps_per_epoch: Steps that make one loss status, at least 1. The number of batches in an epoch is the reading
            that comes nearest to the paper; 1 is Algorithm 1 to the letter, which hardly does anything on real data.
        gamma2: Size of the correction, at least 0. The paper takes 1e-8 for 10 classes, 1e-9 for 100, 1e-10 for 200.
            ``"auto"`` sets it by itself, which goes beyond the paper; a `lossaware.SelfSet` says how. It needs one more
            tensor a parameter, which is kept in the optimizer's state and goes into its checkpoints.
        eps: The gap between loss and lower bound from which the gate is open, at least 0 (Eq. 4). None means 0.1, and
            0 where gamma2 sets itself.
        xi: Stability constant of the correction, above 0 (Eq. 5). None means 0.01, and 1 where gamma2 sets itself.
        lower_bound: ``"progressive"`` (Eq. 3), ``"average"`` or ``"momentum"`` (A.9), ``"zero"``, or an object with
            their one method, `LowerBound.update`. None means progressive, and zero where gamma2 sets itself.
        backoff: Factor on gamma2 each time a status' mean loss is above the one before, from 0 to 1 (Algorithm 1,
            lines 7-9). A gamma2 that sets itself has its own.
        zero_gradient: ``"push"`` moves elements whose gradient is exactly 0 downwards, as Eq. 5 says; ``"rest"`` leaves
            them, for example padding rows and pruned weights, where they are. None means push, and rest where gamma2
            sets itself; there phi reads a running mean of the gradients, and it is that which is 0.
        process_group: The ranks over which the loss is averaged; None means all of them.

    Raises:
        TypeError: What is given as optimizer is none, or steps_per_epoch is missing.
        ValueError: A hyperparameter is out of its range, LGA is attached to the optimizer already, or the optimizer is
            one that LGA cannot go with.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        >>> lga = LGA(optimizer, steps_per_epoch=100)
        >>> loss = model(torch.ones(8, 3)).square().mean()
        >>> loss.backward()
        >>> optimizer.step(loss=loss)
        >>> lga.status.steps
        1
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        steps_per_epoch: int,
        gamma2: float | str | SelfSet = 1e-8,
        eps: float | None = None,
        xi: float | None = None,
        lower_bound: str | LowerBound | None = None,
        backoff: float = 0.1,
        zero_gradient: str | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        _check_optimizer(optimizer)
        if isinstance(steps_per_epoch, bool) or not isinstance(steps_per_epoch, int) or steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be a whole number of at least 1: got {steps_per_epoch!r}")
        strategy = make_strategy(gamma2, _checked("backoff", backoff, high=1.0))
        defaults = strategy.defaults
        zero_gradient = defaults.zero_gradient if zero_gradient is None else zero_gradient
        if zero_gradient not in _ZERO_GRADIENT:
            raise ValueError(f"zero_gradient must be 'push' or 'rest': got {zero_gradient!r}")
        self.optimizer = optimizer
        self.gamma2 = strategy if isinstance(strategy, SelfSet) else _checked("gamma2", gamma2)
        for index, group in enumerate(optimizer.param_groups):
            _check_group(index, group, isinstance(strategy, SelfSet))
        self.law = Law(
            steps_per_status=strategy.steps_per_status(steps_per_epoch),
            lower_bound=make_lower_bound(defaults.lower_bound if lower_bound is None else lower_bound),
            eps=_checked("eps", defaults.eps if eps is None else eps),
            strategy=strategy,
        )
        self.xi = _checked("xi", defaults.xi if xi is None else xi, above=True)
        self.zero_gradient = zero_gradient
        self.process_group = process_group
        self._steps_per_epoch = steps_per_epoch
        self._backoff = float(backoff)
        self._scales: list[float] = []
        self._scales_of_groups()

        self._state = State()
        self._device_state: Tensor | None = None  # holds the state instead, once losses come from an accelerator
        self._launcher: Launcher | None = None
        self._steps_without_loss = 0
        self._correction = Correction(self.xi, zero_gradient)
        self._observed = ObservedLosses([p for group in optimizer.param_groups for p in group["params"]])
        self._loss: LossValue | None = None  # of the step in progress
        self._gradients = StepGradients(optimizer)
        self._means = RunningMeans(optimizer, strategy.momentum) if strategy.momentum else None
        self._depth = 0  # of steps within steps: an optimizer may call its parent's step, which runs the hooks too
        self._observed_in_closure = False
        # Other loss-aware optimizers, such as MoMo, have a step(loss=...) of their own.
        self._base_takes_loss = "loss" in inspect.signature(type(optimizer).step).parameters
        self._meter: UpdateMeter | None = None
        self._backoff_notice = BackoffNotice()
        self._status_notice = StatusNotice(0 if isinstance(strategy, SelfSet) else steps_per_epoch)
        self._last_words = weakref.finalize(self, self._status_notice.close)

        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        # copy, deepcopy and pickle ask the instance for its state; what they make would lack the hooks.
        optimizer.__getstate__ = self._refuse_copy  # type: ignore[method-assign]

    @classmethod
    def of(cls, optimizer: Optimizer) -> "LGA | None":
        """The LGA that is attached to the optimizer; None where there is none."""
        hooks = getattr(optimizer, "_optimizer_step_post_hooks", {}).values()
        owners = (getattr(hook, "__self__", None) for hook in hooks)
        return next((owner for owner in owners if isinstance(owner, cls)), None)

    # The loss ---------------------------------------------------------------------------------------------------------

    def observe(self, loss: float | Tensor) -> None:
        """Hand over the loss of the next step, before it or in its closure; of several calls the mean counts.

        What is observed in a closure is the loss, and not what the closure returns.

        Args:
            loss: A number, or a tensor with one element of any device and dtype: the true mean loss of the
                (micro-)batch, not divided by the number of micro-batches and not scaled.

        Raises:
            ValueError: The tensor has more than one element, or none.
            TypeError: It is neither number nor tensor.
            RuntimeError: LGA is detached.
        """
        self._refuse_detached()
        self._observed.add(loss)
        self._observed_in_closure = True

    def _refuse_detached(self) -> None:
        if not self._handles:
            raise RuntimeError("this LGA is detached from its optimizer: attach a new one with LGA(optimizer, ...)")

    def _home(self) -> torch.device:
        """Where the parameters are, of which all ranks have the same."""
        params = (p for group in self.optimizer.param_groups for p in group["params"])
        return next((p.device for p in params), torch.device("cpu"))

    def _before_step(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        given = kwargs.get("loss")
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        arrives = {
            "step(loss=...)": given is not None,
            "step(closure)": closure is not None and not isinstance(closure, _Watched),
            "observe(loss)": len(self._observed) > 0,
        }
        if self._depth and not any(arrives.values()):
            self._depth += 1
            return None
        if given is not None and arrives["observe(loss)"]:
            self._refuse_two({**arrives, "step(closure)": False})
        if given is None:
            self._loss = None
        else:
            self._loss = read_loss(given)
            self._observed.clear()  # nothing is there, but it is to know that a step has come
        self._depth = 1  # not one more: a step that failed has not counted down
        if self._meter is not None:
            self._meter.before_step()
        if closure is None:
            if given is None:
                self._loss = self._observed.take()
            self._gradients.remember()
            if "loss" not in kwargs or self._base_takes_loss:
                return None
        if not self._base_takes_loss:
            kwargs = {name: value for name, value in kwargs.items() if name != "loss"}
        if closure is not None:
            self._observed_in_closure = False
            watched = _Watched(closure, self._after_closure)
            if len(args) > 1:
                args = (args[0], watched, *args[2:])
            else:
                kwargs["closure"] = watched
        return args, kwargs

    def _after_closure(self, loss: Any) -> None:
        given, observed = self._loss, self._observed.take()
        self._loss = given if observed is None else observed
        # Trainers return from their closures what they show, mostly another multiple of the loss.
        if loss is not None and not (self._observed_in_closure and given is None):
            self._refuse_two(
                {
                    "step(loss=...)": given is not None,
                    "step(closure)": True,
                    "observe(loss)": observed is not None,
                }
            )
            self._loss = read_loss(loss)
        self._gradients.remember()

    def _refuse_two(self, arrives: dict[str, bool]) -> None:
        channels = [name for name, used in arrives.items() if used]
        if len(channels) > 1:
            self._observed.clear()  # so that the step can be tried again
            raise ValueError(f"the loss of a step must arrive in one way: got it by {' and by '.join(channels)}")

    # The step ---------------------------------------------------------------------------------------------------------

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._depth -= 1
        if self._depth > 0:
            return
        if self._meter is not None:
            self._meter.after_base()
        if self._means is not None:
            self._means.make(p for group, _ in self._pushed() for p in group["params"])
        push = self._push()
        if not (isinstance(push, float) and push == 0.0):
            self._correction.reseed(self._seed())
            gradient_of = self._gradients.after_step()
            for group, unit in zip(optimizer.param_groups, self._units(), strict=True):
                if unit != 0:
                    pairs = [(p, g) for p in group["params"] if (g := gradient_of(p)) is not None]
                    self._correct(self._correction, group, pairs, push * unit)
        self._gradients.forget()
        if self._meter is not None:
            self._meter.after_correction()

    def _push(self) -> LossValue:
        """Take the step's loss in; see `_advance` for what is returned."""
        loss, self._loss = self._loss, None
        if loss is not None:
            self._status_notice.step()
            mean = mean_over_ranks(loss, self.process_group, self._home)
            return self._advance(mean, getattr(self.optimizer, "found_inf", None))
        self._warn_of_missing_loss()
        self._steps_without_loss += 1
        if not is_shared(self.process_group) or _rests(self.optimizer):
            return 0.0
        # Other ranks may have a loss and wait for this one's; a mean with NaN in it lets them make no correction.
        mean = mean_over_ranks(math.nan, self.process_group, self._home)
        return torch.zeros_like(mean) if isinstance(mean, Tensor) else 0.0

    def _units(self) -> list[float]:
        """What the push of a step is multiplied by, a number a group: gamma2, where it does not set itself."""
        groups = self.optimizer.param_groups
        if not isinstance(self.gamma2, SelfSet):
            return [group.get("gamma2", self.gamma2) for group in groups]
        reach = self.gamma2.reach * self.xi
        return [
            0.0 if group.get("gamma2") == 0 else reach * scale
            for group, scale in zip(groups, self._scales_of_groups(), strict=True)
        ]

    def _scales_of_groups(self) -> list[float]:
        """Of the groups' parameters at the start, where gamma2 sets itself; groups that are new are measured now."""
        if isinstance(self.gamma2, SelfSet):
            new = self.optimizer.param_groups[len(self._scales) :]
            self._scales += [scale_of(group["params"]) for group in new]
        return self._scales

    def _pushed(self) -> list[tuple[dict[str, Any], float]]:
        """The groups that LGA is not switched off for, each with its unit."""
        return [group for group in zip(self.optimizer.param_groups, self._units(), strict=True) if group[1] != 0]

    def _seed(self) -> int | Tensor:
        """A whole number that is another each step, and the same on every rank."""
        return int(self._state.steps) if self._device_state is None else State(*self._device_state.unbind()).steps

    def _correct(
        self,
        correction: Correction,
        group: dict[str, Any],
        pairs: list[tuple[Tensor, Tensor]],
        amount: LossValue,
    ) -> None:
        maximize = bool(group.get("maximize", False))
        if self._means is not None:
            pairs = self._means.take_in(pairs, amount)
        correction.apply(pairs, amount, maximize=maximize)
        if isinstance(self.optimizer, ASGD):
            # Its averaged iterate took in the parameter before the correction, with the weight mu of this step; the
            # state holds the next step's already.
            for p, g in pairs:
                state = self.optimizer.state[p]
                mu = 1 / (state["step"] - 1 - group["t0"]).clamp(min=1)
                share = mu * amount if isinstance(amount, Tensor) or mu.device.type != "cpu" else float(mu) * amount
                correction.apply([(state["ax"], g)], share, maximize=maximize)

    def _advance(self, loss: LossValue, found_inf: Tensor | None) -> LossValue:
        """Move the law on by one step.

        Returns:
            What `_units` are to be multiplied by: for a fixed gamma2, Omega times all back-offs; 0 where a gradient
            scaler found an overflow, in which case nothing moves at all.
        """
        on_host = found_inf is None or found_inf.device.type == "cpu"
        if isinstance(loss, float) and self._device_state is None and on_host:
            if found_inf is not None and found_inf.item():
                return 0.0
            self._state = self.law.advance(self._state, loss)
            self._look_for_backoff()
            return float(self.law.strategy.push(self._state, HOST))

        like = loss if isinstance(loss, Tensor) else found_inf
        held = self._state_on(torch.device("cpu") if like is None else like.device)
        value = loss.to(held) if isinstance(loss, Tensor) else held.new_full((), loss)
        if self._launcher is not None and self._launched(self._launcher, value, found_inf):
            return 0.0  # nothing is left to do
        state = self.law.advance(State(*held.unbind()), value, torch)
        moved: Tensor = torch.stack(state)
        push: Tensor = self.law.strategy.push(state, torch)
        if found_inf is not None:
            skipped = found_inf.to(held.device) > 0
            moved, push = torch.where(skipped, held, moved), torch.where(skipped, 0.0, push)
        held.copy_(moved)  # in place, so that a captured graph finds it again
        return push

    def compile(self, **options: Any) -> "CompiledStep":
        """A step that runs base step, law and correction as one compiled graph.

        Call it with the loss in place of ``optimizer.step(loss=loss)``. Both steps may be mixed, and all else stays as
        it was: schedulers, checkpoints, `status`. See `lossaware.compiled.CompiledStep` for what it does when.

        Args:
            options: Keyword arguments of ``torch.compile``, for example ``mode="reduce-overhead"``.

        Raises:
            UsageError: The optimizer has other step hooks; or, at the first steps, it cannot be traced.

        Example:
            >>> step = lga.compile()  # doctest: +SKIP
            >>> loss.backward()
            >>> step(loss)  # with a gradient scaler: step(loss, scaler=scaler)
        """
        from lossaware.compiled import CompiledStep

        return CompiledStep(self, options)

    def _state_on(self, device: torch.device) -> Tensor:
        """The state as a tensor, which holds it from then on; on that device unless it is on another already."""
        if self._device_state is None:
            self._device_state = torch.tensor(self._state, dtype=wide(device), device=device)
            self._launcher = self._make_launcher(self._device_state)
        return self._device_state

    def _make_launcher(self, held: Tensor) -> "Launcher | None":
        """Law and correction as one launch, where Triton is there and knows the law."""
        if held.device.type != "cuda" or isinstance(self.optimizer, ASGD):
            return None
        try:
            from lossaware.kernels import Launcher
        except ImportError:
            return None
        return Launcher(self.law, self.xi, self.zero_gradient == "rest", held) if Launcher.knows(self.law) else None

    def _launched(self, launcher: "Launcher", loss: Tensor, found_inf: Tensor | None) -> bool:
        """Make the step by one launch, unless there are gradients that the kernel does not take."""
        if torch.compiler.is_compiling():
            return False
        gradient_of = self._gradients.after_step()
        groups = [
            (
                [(p.detach(), g, self._mean_of(p, g)) for p in group["params"] if (g := gradient_of(p)) is not None],
                float(unit),
                bool(group.get("maximize", False)),
            )
            for group, unit in self._pushed()
        ]
        if not all(launcher.takes(p, g, mean) for tensors, _, _ in groups for p, g, mean in tensors):
            return False
        launcher.step(groups, loss, found_inf)
        return True

    def _mean_of(self, parameter: Tensor, gradient: Tensor) -> Tensor | None:
        return None if self._means is None else self._means.of(parameter, gradient)

    def _warn_of_missing_loss(self) -> None:
        if not self._steps_without_loss:
            who = f" on rank {dist.get_rank()}" if is_shared(self.process_group) else ""
            warnings.warn(
                f"LGA got no loss for this step{who}, so it is the base optimizer's step alone; pass the loss by "
                "optimizer.step(loss=loss), optimizer.step(closure), or lga.observe(loss) before the step",
                stacklevel=6,
            )

    # Reading and keeping ----------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """What LGA is doing. Reading it may wait for the device; stepping never does."""
        state, gamma2 = self._host_state(), self.gamma2
        if isinstance(gamma2, SelfSet):
            gamma2 = max(self._units()) / state.upper if state.upper > 0 else math.nan
        return summarize(state, gamma2, self._steps_without_loss)

    def measure_every(self, steps: int | None) -> None:
        """Compare the correction with the base update each so many steps, for `measurement` to show; None ends that.

        A sample of 65,536 elements is looked at before the base step, after it and after the correction, so that no
        copy of the model is made.

        Raises:
            ValueError: It is no whole number of at least 1.
        """
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps must be a whole number of at least 1, or None: got {steps!r}")
        self._meter = None if steps is None else UpdateMeter(self.optimizer, steps)

    @property
    def measurement(self) -> Measurement | None:
        """The last one that `measure_every` asked for; None before it. Reading it may wait for the device."""
        return None if self._meter is None else self._meter.read()

    def _host_state(self) -> State:
        if self._device_state is not None:
            self._state = State(*self._device_state.tolist())
            self._look_for_backoff()
        return self._state

    def _look_for_backoff(self) -> None:
        if not isinstance(self.gamma2, SelfSet):  # one that sets itself goes up and down all the time
            self._backoff_notice.look(self._state, self.gamma2)

    def _hyperparameters(self) -> dict[str, Any]:
        bound = self.law.lower_bound
        return {
            "steps_per_epoch": self._steps_per_epoch,
            "gamma2": repr(self.gamma2) if isinstance(self.gamma2, SelfSet) else self.gamma2,
            "eps": self.law.eps,
            "xi": self.xi,
            # An object without a repr of its own would show its address.
            "lower_bound": type(bound).__qualname__ if type(bound).__repr__ is object.__repr__ else repr(bound),
            "backoff": self._backoff,
            "zero_gradient": self.zero_gradient,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain values; loads under ``weights_only=True``.

        But where gamma2 sets itself, the running means of the gradients are in the optimizer's own state_dict. Losses
        observed since the last step are in neither, as the gradients they belong to are in no checkpoint.
        """
        return {
            "hyperparameters": self._hyperparameters(),
            "state": self._host_state()._asdict(),
            "scales": list(self._scales_of_groups()),
            "steps_without_loss": self._steps_without_loss,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: A key is unknown or missing, a value is no number, or a hyperparameter is not this LGA's;
                nothing is changed then.
        """
        _check_keys("LGA's state_dict", state_dict, self.state_dict())
        kept, own = state_dict["hyperparameters"], self._hyperparameters()
        _check_keys("the hyperparameters in LGA's state_dict", kept, own)
        for name, value in own.items():
            if kept[name] != value:
                raise ValueError(
                    f"{name} is {kept[name]!r} in the state_dict but {value!r} here: "
                    f"make LGA with the value that the state belongs to"
                )
        _check_keys("the state in LGA's state_dict", state_dict["state"], State()._asdict())
        numbers = {**state_dict["state"], "steps_without_loss": state_dict["steps_without_loss"]}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} in LGA's state_dict must be a number: got {value!r}")
        scales = state_dict["scales"]
        if not isinstance(scales, list) or not all(isinstance(scale, float) and scale > 0 for scale in scales):
            raise ValueError(f"scales in LGA's state_dict must be a list of numbers above 0: got {scales!r}")
        if len(scales) != (here := len(self._scales_of_groups())):
            raise ValueError(f"LGA's state_dict has the scales of {len(scales)} parameter groups, here are {here}")

        self._scales = list(scales)
        self._state = State(**state_dict["state"])
        self._backoff_notice = BackoffNotice(self._state.decay)
        self._status_notice.load(self._state)
        if self._device_state is not None:
            self._device_state.copy_(torch.tensor(self._state, dtype=self._device_state.dtype))
        self._steps_without_loss = int(state_dict["steps_without_loss"])
        self._observed.clear()

    # Coming and going -------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Leave the optimizer, which then steps as it did before. Detaching twice does nothing.

        Running means of gradients stay in the optimizer's state, for an LGA that is attached next.
        """
        for handle in self._handles:
            handle.remove()
        if self._handles:
            del self.optimizer.__getstate__
        self._handles = []
        self._observed.close()
        self._last_words()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _refuse_copy(self) -> NoReturn:
        name = type(self.optimizer).__name__
        raise TypeError(
            f"{name} has LGA attached, which a copy or pickle of it would lose: call lga.detach() first, then attach a "
            "new LGA to the copy (lga.state_dict() carries the state over)"
        )

    def __repr__(self) -> str:
        settings = ", ".join(
            f"{name}={value}" if name == "lower_bound" else f"{name}={value!r}"
            for name, value in self._hyperparameters().items()
        )
        return f"LGA({type(self.optimizer).__name__}{'' if self._handles else ', detached'}, {settings})"


class _Watched:
    """A closure whose first result in a step is noted; later ones belong to other points."""

    def __init__(self, closure: Callable[[], Any], note: Callable[[Any], None]) -> None:
        self._closure = closure
        self._note: Callable[[Any], None] | None = note

    def __call__(self) -> Any:
        loss = self._closure()
        if self._note is not None:
            note, self._note = self._note, None
            note(loss)
        return loss


def _check_optimizer(optimizer: Any) -> None:
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"LGA attaches to a torch.optim.Optimizer: got {_remedy(optimizer)}")
    if isinstance(optimizer, LBFGS):
        raise ValueError("LGA cannot go with LBFGS, whose one step moves through many losses: use another optimizer")
    if not hasattr(optimizer, "_optimizer_step_post_hooks") or not getattr(type(optimizer).step, "hooked", False):
        inside = _optimizer_inside(optimizer)
        which = f", its .{inside}" if inside else ""
        raise ValueError(
            f"{name} does not run step hooks, so it wraps another optimizer: attach LGA to the one inside{which}"
        )
    if LGA.of(optimizer) is not None:
        raise ValueError(f"this {name} has LGA attached already: call detach() on that one first")


def _remedy(thing: Any) -> str:
    """What was given in place of an optimizer, and what to give instead."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}; make one of it, {thing.__name__}(model.parameters(), ...)"
    if isinstance(thing, (list, tuple, dict)):
        return f"a {type(thing).__name__}; attach one LGA to each optimizer"
    name, inside = type(thing).__name__, _optimizer_inside(thing)
    return f"{name}, which holds one; attach LGA to its .{inside}" if inside else name


def _optimizer_inside(wrapper: Any) -> str | None:
    """The name under which a wrapper or scheduler holds an optimizer; the public one where there are two."""
    held = [name for name, value in getattr(wrapper, "__dict__", {}).items() if isinstance(value, Optimizer)]
    public = [name.lstrip("_") for name in held if isinstance(getattr(wrapper, name.lstrip("_"), None), Optimizer)]
    return next(iter(public + held), None)


def _rests(optimizer: Optimizer) -> bool:
    """Whether the step changes nothing, as when torch's checkpointing asks for the state, maybe on one rank alone."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    return all(not (isinstance(lr, Tensor) and lr.device.type != "cpu") and lr == 0 for lr in rates)


def _checked(name: str, value: Any, *, above: bool = False, high: float = math.inf) -> float:
    """The value as a float, if it is a number from 0 (or above it) to ``high``."""
    allowed = ("above 0" if above else "at least 0") + (f" and at most {high:g}" if high < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number {allowed}: got {value!r}")
    if not (value > 0 if above else value >= 0) or not value <= high or math.isinf(value):
        raise ValueError(f"{name} must be {allowed}, and finite: got {value!r}")
    return float(value)


def _check_group(index: int, group: dict[str, Any], sets_itself: bool) -> None:
    gamma2 = _checked(f"gamma2 of parameter group {index}", group.get("gamma2", 0.0))
    if sets_itself and gamma2 != 0:
        raise ValueError(
            f"gamma2 of parameter group {index} must be 0, which switches LGA off there, or absent, as gamma2 sets "
            f"itself: got {gamma2!r}"
        )


def _check_keys(what: str, given: Any, expected: dict[str, Any]) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{what} must be a dictionary: got {type(given).__name__}")
    unknown, missing = sorted(set(given) - set(expected)), sorted(set(expected) - set(given))
    if unknown or missing:
        parts = [f"unknown {', '.join(map(str, unknown))}"] * bool(unknown)
        parts += [f"missing {', '.join(map(str, missing))}"] * bool(missing)
        raise ValueError(f"{what} does not fit: {'; '.join(parts)}")
