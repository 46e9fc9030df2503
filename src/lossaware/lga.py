"""LGA as a companion of an optimizer, as a learning-rate scheduler is: it attaches by step hooks and wraps nothing."""

import weakref
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypedDict, Unpack, overload

import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lossaware.attachment import check_optimizer, companion_of
from lossaware.checkpoint import load, save
from lossaware.gamma2 import Gamma2Rule
from lossaware.law_state import Status
from lossaware.lower_bounds import LowerBound
from lossaware.settings import Settings, make_settings
from lossaware.step_hooks import StepHooks
from lossaware.stepper import Stepper
from lossaware.update_meter import Measurement, UpdateMeter
from lossaware.upper_bounds import UpperBound

if TYPE_CHECKING:
    from lossaware.agreement import Agreement
    from lossaware.compiled import CompiledStep  # which imports torch's compiler


class OtherSettings(TypedDict, total=False):
    """The settings of `LGA` but ``steps_per_epoch`` and ``gamma2``, for type checkers."""

    eps: float | None
    xi: float | None
    lower_bound: str | LowerBound | None
    upper_bound: str | UpperBound
    backoff: float
    zero_gradient: str | None
    process_group: dist.ProcessGroup | None


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
            Needed unless gamma2 is ``"agreement"``.
        gamma2: Size of the correction, at least 0. The paper takes 1e-8 for 10 classes, 1e-9 for 100, 1e-10 for 200.
            ``"auto"`` adapts it by itself, which goes beyond the paper; a `lossaware.AutoGamma2` says how. It needs one
            more tensor for each parameter, which is kept in the optimizer's state and its checkpoints.
            ``"agreement"`` goes by whether gradients agree, and bounds the base's own step too; see
            `lossaware.agreement.Agreement`. Or a rule of your own, see `lossaware.gamma2.Gamma2Rule`.
        eps: The gap between loss and lower bound from which the gate is open, at least 0 (Eq. 4). None means 0.1, and
            0 where gamma2 sets itself.
        xi: Stability constant of the correction, above 0 (Eq. 5). None means 0.01, and 1 where gamma2 sets itself.
        lower_bound: ``"progressive"`` (Eq. 3), ``"average"`` or ``"momentum"`` (A.9), ``"zero"``, or an object with
            their one method, `LowerBound.update`. None means progressive, and zero where gamma2 sets itself.
        upper_bound: The loss above which the gate is closed: ``"first"`` is the first finite loss (Eq. 4), or an object
            with the method of `UpperBound`. ``"running"`` is for losses whose first one says little about the rest: 0,
            small, an outlier, or below 0; see `lossaware.RunningLevel`.
        backoff: Factor on gamma2 each time a status' mean loss is above the one before, from 0 to 1 (Algorithm 1,
            lines 7-9). A gamma2 that sets itself has its own.
        zero_gradient: ``"push"`` moves elements whose gradient is exactly 0 downwards, as Eq. 5 says; ``"rest"`` leaves
            them, for example padding rows and pruned weights, where they are. None means push, and rest where gamma2
            sets itself; there phi reads a running mean of the gradients, and it is that which is 0.
        process_group: The ranks over which the loss is averaged; None means all of them.

    Raises:
        TypeError: What is given as optimizer is none, or steps_per_epoch is missing.
        ValueError: A hyperparameter is out of its range, LGA is attached to the optimizer already, the optimizer is one
            that LGA cannot go with, or elements of a parameter share memory.

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

    @overload
    def __init__(
        self,
        optimizer: Optimizer,
        *,
        steps_per_epoch: int,
        gamma2: float | str | Gamma2Rule = 1e-8,
        **settings: Unpack[OtherSettings],
    ) -> None: ...

    @overload
    def __init__(
        self,
        optimizer: Optimizer,
        *,
        gamma2: "Literal['agreement'] | Agreement",
        **settings: Unpack[OtherSettings],
    ) -> None: ...

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        steps_per_epoch: int | None = None,
        gamma2: float | str | Gamma2Rule = 1e-8,
        eps: float | None = None,
        xi: float | None = None,
        lower_bound: str | LowerBound | None = None,
        upper_bound: str | UpperBound = "first",
        backoff: float = 0.1,
        zero_gradient: str | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        check_optimizer(optimizer, is_attached=self.of(optimizer) is not None)
        self.settings = make_settings(
            steps_per_epoch=steps_per_epoch,
            gamma2=gamma2,
            eps=eps,
            xi=xi,
            lower_bound=lower_bound,
            upper_bound=upper_bound,
            backoff=backoff,
            zero_gradient=zero_gradient,
        )
        self.process_group = process_group
        self._connect(optimizer)

    def _connect(self, optimizer: Optimizer) -> None:
        self._stepper = _make_stepper(self.settings)
        self._stepper.prepare(optimizer)
        self._hooks = StepHooks(optimizer, self._stepper, self.process_group)
        self._input = self._hooks.input
        self._last_words = weakref.finalize(self, self._stepper.statuses.close)
        self._attachment = self._hooks.attach(optimizer, self)

    @classmethod
    def of(cls, optimizer: Optimizer) -> "LGA | None":
        """The LGA that is attached to the optimizer; None where there is none."""
        found: LGA | None = companion_of(optimizer)
        return found

    @property
    def steps_per_epoch(self) -> int:
        """Steps that make one loss status. It may be set at any time, where the length of an epoch changes.

        The status in progress keeps the losses that it has, and is complete when it has as many as the new value, or at
        the next step where it has them already.

        Raises:
            ValueError: It is set to a value that is not a whole number of at least 1.
        """
        return self.settings.steps_per_epoch

    @steps_per_epoch.setter
    def steps_per_epoch(self, steps: int) -> None:
        self.settings = self.settings.with_steps_per_epoch(steps)
        self._stepper.set_epoch(self.settings)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, which LGA refers to weakly; RuntimeError where it does not exist any more."""
        return self._attachment.optimizer

    def __getattr__(self, name: str) -> Any:
        from lossaware.deprecated import old_setting

        return old_setting(self, name)

    def observe(self, loss: float | Tensor) -> None:
        """Hand over the loss of the next step, before it or in its closure; of several calls the mean counts.

        What is observed in a closure is the loss, and not what the closure returns. A loss that has a graph does not
        count where the backward pass went through another one only, as where a batch was skipped; nor does a loss
        count whose gradients were cleared before the step. See `forget`.

        Args:
            loss: A number, or a tensor with one element of any device and dtype: the true mean loss of the
                (micro-)batch, not divided by the number of micro-batches and not scaled.

        Raises:
            ValueError: The tensor has more than one element, or none.
            TypeError: It is neither number nor tensor.
            RuntimeError: LGA is detached, or its optimizer does not exist any more.
        """
        self._attachment.refuse_detached()
        self._input.observe(loss, self.optimizer)

    def forget(self) -> None:
        """Drop the losses that were observed since the last step, for example of a batch that is skipped.

        Losses without a backward pass, and those whose gradients were cleared before a step, are dropped without it.
        """
        self._input.forget()

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

        return CompiledStep(self._attachment, self._stepper, self._hooks, options)

    @property
    def status(self) -> Status:
        """The state of LGA as plain numbers. Reading it may wait for the device; stepping never does."""
        return self._stepper.status(self._input.steps_without_loss)

    def measure_every(self, steps: int | None) -> None:
        """Compare the correction with the base update each so many steps, for `measurement` to show; None ends that.

        It looks at a sample of 65,536 elements before and after each, so that no copy of the model is made.

        Raises:
            ValueError: It is no whole number of at least 1.
        """
        self._hooks.meter = UpdateMeter(steps)

    @property
    def measurement(self) -> Measurement | None:
        """The last one that `measure_every` asked for; None before it. Reading it may wait for the device."""
        return self._hooks.meter.read()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain values; loads under ``weights_only=True``.

        But for the running means of the gradients, which ``gamma2="auto"`` keeps in the optimizer's own state_dict.
        Losses observed since the last step are in neither, as the gradients they belong to are in no checkpoint.
        """
        return save(self.settings, self._stepper, self._input, self._attachment)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, also that of an older version.

        The scales of parameter groups (``gamma2="auto"``) find their groups by the names of the parameters, where these
        are known; else by the numbers of elements, if these differ; else by the order of the groups.

        Raises:
            ValueError: A key is unknown or missing, a value is no number, a hyperparameter is not this LGA's, or the
                parameter groups are others; nothing is changed then.
        """
        load(state_dict, self.settings, self._stepper, self._input, self._attachment)

    def detach(self) -> None:
        """Leave the optimizer, which then steps as it did before. Detaching twice does nothing.

        Running means of gradients stay in the optimizer's state, for an LGA that is attached next.
        """
        self._attachment.detach()
        self._stepper.release()
        self._input.close()
        self._last_words()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __getstate__(self) -> NoReturn:
        raise TypeError("LGA belongs to an optimizer and cannot be copied: attach a new one, and load its state_dict()")

    def __repr__(self) -> str:
        return f"LGA({self._attachment.name}{'' if self._attachment.active else ', detached'}, {self.settings})"


def _make_stepper(settings: Settings) -> Stepper:
    if settings.rule.moves_base:
        from lossaware.agreement_stepper import AgreementStepper

        return AgreementStepper(settings)
    return Stepper(settings)
