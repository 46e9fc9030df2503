"""LGA, which attaches to an optimizer by step hooks, like a learning-rate scheduler, without wrapping it."""

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
    """The settings of `LGA` except ``steps_per_epoch`` and ``gamma2``, for type checkers."""

    eps: float | None
    xi: float | None
    lower_bound: str | LowerBound | None
    upper_bound: str | UpperBound
    backoff: float
    zero_gradient: str | None
    process_group: dist.ProcessGroup | None


class LGA:
    """Makes an optimizer loss-aware: after each step, p <- p - gamma2 * Omega(loss) / phi(gradient) (Eq. 2).

    The optimizer itself does not change; schedulers, gradient scalers and checkpoints work as before. The loss arrives
    in one of three ways, once per step: ``optimizer.step(loss=loss)``, ``optimizer.step(closure)``, or
    ``lga.observe(loss)`` before the step, with the mean over several micro-batches. With ``torch.distributed`` the mean
    over the ranks is used, so every rank must pass its loss at the same steps; if one rank does not, no rank makes a
    correction. A step without a loss is exactly the base optimizer's step.

    A parameter group may have its own ``"gamma2"``; 0 switches LGA off for the group. LGA reads the gradients that the
    optimizer's step reads: unscaled, and clipped if they were clipped. If the optimizer maximizes, the push goes in its
    direction. Parameters of 16 bits are rounded stochastically, because a push is far below their resolution.

    Args:
        optimizer: Any ``torch.optim.Optimizer`` except LBFGS.
        steps_per_epoch: Steps per loss status, at least 1. The number of batches in an epoch is the reading nearest to
            the paper; 1 is Algorithm 1 read literally, which has hardly any effect on real data. Required unless gamma2
            is ``"agreement"``.
        gamma2: Size of the correction, at least 0. The paper uses 1e-8 for 10 classes, 1e-9 for 100, 1e-10 for 200.
            ``"auto"`` adapts it by itself, which goes beyond the paper; see `lossaware.AutoGamma2`. It needs one more
            tensor per parameter, which is part of the optimizer's state and its checkpoints. ``"agreement"`` follows
            the agreement of gradients, and bounds the base's own step too; see `lossaware.agreement.Agreement`. For
            your own rule, see `lossaware.gamma2.Gamma2Rule`.
        eps: The gap between loss and lower bound from which the gate is open, at least 0 (Eq. 4). None means 0.1, or
            0 if gamma2 adapts by itself.
        xi: Stability constant of the correction, above 0 (Eq. 5). None means 0.01, or 1 if gamma2 adapts by itself.
        lower_bound: ``"progressive"`` (Eq. 3), ``"average"`` or ``"momentum"`` (A.9), ``"zero"``, or an object with
            the method `LowerBound.update`. None means progressive, or zero if gamma2 adapts by itself.
        upper_bound: The loss above which the gate is closed: ``"first"`` is the first finite loss (Eq. 4), or an object
            with the method of `UpperBound`. ``"running"`` is for losses whose first value is not representative: 0,
            small, an outlier, or below 0; see `lossaware.RunningLevel`.
        backoff: Factor on gamma2 each time a status's mean loss is above the one before, in [0, 1] (Algorithm 1,
            lines 7-9). A gamma2 that adapts by itself has its own factors.
        zero_gradient: ``"push"`` moves elements whose gradient is exactly 0 downwards, as in Eq. 5; ``"rest"`` does not
            move them, for example padding rows and pruned weights. None means push, or rest if gamma2 adapts by itself;
            then this refers to the running mean of the gradients, which phi reads.
        process_group: The ranks over which the loss is averaged; None means all of them.

    Raises:
        TypeError: ``optimizer`` is not a torch optimizer, or steps_per_epoch is missing.
        ValueError: A hyperparameter is out of its range, LGA is already attached to the optimizer, the optimizer is not
            supported, or elements of a parameter share memory.

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
        self._finalizer = weakref.finalize(self, self._stepper.statuses.close)
        self._attachment = self._hooks.attach(optimizer, self)

    @classmethod
    def of(cls, optimizer: Optimizer) -> "LGA | None":
        """The LGA that is attached to the optimizer, or None."""
        lga: LGA | None = companion_of(optimizer)
        return lga

    @property
    def steps_per_epoch(self) -> int:
        """Steps per loss status. It can be set at any time if the length of an epoch changes.

        The status in progress keeps its losses. It is complete when their number reaches the new value, or at the next
        step if it already has.

        Raises:
            ValueError: It is set to a value that is not an integer of at least 1.
        """
        return self.settings.steps_per_epoch

    @steps_per_epoch.setter
    def steps_per_epoch(self, steps: int) -> None:
        self.settings = self.settings.with_steps_per_epoch(steps)
        self._stepper.set_epoch(self.settings)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, of which LGA has a weak reference; RuntimeError if it no longer exists."""
        return self._attachment.optimizer

    def __getattr__(self, name: str) -> Any:
        from lossaware.deprecated import old_setting

        return old_setting(self, name)

    def observe(self, loss: float | Tensor) -> None:
        """Pass the loss of the next step, before it or in its closure; the mean over several calls is used.

        If a closure observes a loss, its return value is not used. A loss with a graph does not count if the backward
        pass went only through another one, as when a batch is skipped, or if its gradients were cleared before the
        step. See `forget`.

        Args:
            loss: A number, or a tensor with one element of any device and dtype: the true mean loss of the
                (micro-)batch, not divided by the number of micro-batches and not scaled.

        Raises:
            ValueError: The tensor does not have exactly one element.
            TypeError: It is neither a number nor a tensor.
            RuntimeError: LGA is detached, or its optimizer no longer exists.
        """
        self._attachment.refuse_detached()
        self._input.observe(loss, self.optimizer)

    def forget(self) -> None:
        """Drop the losses observed since the last step, for example of a skipped batch.

        Losses without a backward pass, and those whose gradients were cleared before a step, are dropped automatically.
        """
        self._input.forget()

    def compile(self, **options: Any) -> "CompiledStep":
        """A step that runs base step, law and correction as one compiled graph.

        Call it with the loss instead of ``optimizer.step(loss=loss)``. Both steps can be mixed; schedulers, checkpoints
        and `status` work as before. See `lossaware.compiled.CompiledStep` for details.

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
        """The state of LGA as plain numbers. Reading it may wait for the device; steps do not wait."""
        return self._stepper.status(self._input.steps_without_loss)

    def measure_every(self, steps: int | None) -> None:
        """Compare the correction with the base update every ``steps`` steps, for `measurement`; None switches it off.

        It reads a sample of 65,536 elements before and after each, so the model is not copied.

        Raises:
            ValueError: It is not an integer of at least 1.
        """
        self._hooks.meter = UpdateMeter(steps)

    @property
    def measurement(self) -> Measurement | None:
        """The last measurement of `measure_every`, or None. Reading it may wait for the device."""
        return self._hooks.meter.read()

    def state_dict(self) -> dict[str, Any]:
        """The state of LGA as plain values; loads under ``weights_only=True``.

        The running means of the gradients (``gamma2="auto"``) are in the optimizer's own state_dict. Losses observed
        since the last step are not saved, like the gradients that they belong to.
        """
        return save(self.settings, self._stepper, self._input, self._attachment)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a result of `state_dict`, also of an older version.

        The scales of parameter groups (``gamma2="auto"``) are assigned by the names of the parameters if they are
        known, otherwise by the numbers of elements if these differ, otherwise by the order of the groups.

        Raises:
            ValueError: A key is unknown or missing, a value is not a number, a hyperparameter differs, or the parameter
                groups differ; then nothing is changed.
        """
        load(state_dict, self.settings, self._stepper, self._input, self._attachment)

    def detach(self) -> None:
        """Detach from the optimizer, which then steps as before. Detaching twice does nothing.

        Running means of gradients remain in the optimizer's state, for an LGA that is attached later.
        """
        self._attachment.detach()
        self._stepper.release()
        self._input.close()
        self._finalizer()

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
