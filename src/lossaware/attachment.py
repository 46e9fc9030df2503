"""How LGA hangs on an optimizer: which ones it can, the hooks, and the way out.

The optimizer owns LGA, by its hooks; LGA refers to the optimizer weakly. So there is no cycle, and both are freed as
soon as the optimizer is.
"""

import inspect
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

from torch.optim import LBFGS, Optimizer


class Attachment:
    """The hooks of one LGA on one optimizer.

    Args:
        optimizer: Must have passed `check_optimizer`.
        before_step: The step's pre hook.
        after_step: The step's post hook.
        before_load: Called before the optimizer reads a ``state_dict``.
        after_load: Called after it.
        refuse_copy: Called where the optimizer is copied or pickled.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        before_step: Callable[..., Any],
        after_step: Callable[..., None],
        before_load: Callable[..., None],
        after_load: Callable[..., None],
        refuse_copy: Callable[[], NoReturn],
    ) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.name = type(optimizer).__name__
        self._step_hooks = [
            optimizer.register_step_pre_hook(before_step),
            optimizer.register_step_post_hook(after_step),
        ]
        self._load_hooks = [
            optimizer.register_load_state_dict_pre_hook(before_load),
            optimizer.register_load_state_dict_post_hook(after_load),
        ]
        # copy, deepcopy and pickle ask the instance for its state; what they make would lack the hooks.
        optimizer.__getstate__ = refuse_copy  # type: ignore[method-assign]
        self.active = True

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer.

        Raises:
            RuntimeError: It does not exist any more.
        """
        optimizer = self._optimizer()
        if optimizer is None:
            raise RuntimeError(
                f"the optimizer of this LGA, {self.name}, does not exist any more: LGA refers to it weakly, so keep a "
                "reference to it"
            )
        return optimizer

    def refuse_detached(self) -> None:
        """Raise RuntimeError where it is detached, or the optimizer does not exist any more."""
        if not self.active:
            raise RuntimeError("this LGA is detached from its optimizer: attach a new one with LGA(optimizer, ...)")
        _ = self.optimizer

    def other_step_hooks(self) -> list[str]:
        """The names of the optimizer's step hooks besides these."""
        own = {handle.id for handle in self._step_hooks}
        optimizer = self.optimizer
        return [
            getattr(hook, "__qualname__", repr(hook))
            for hooks in (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
            for key, hook in hooks.items()
            if key not in own
        ]

    def detach(self) -> None:
        """Remove all hooks. Detaching twice does nothing."""
        if not self.active:
            return
        self.active = False
        for handle in self._step_hooks + self._load_hooks:
            handle.remove()
        optimizer = self._optimizer()
        if optimizer is not None:
            del optimizer.__getstate__


def takes_loss(optimizer: Optimizer) -> bool:
    """Whether the optimizer's own step has an argument ``loss``, as other loss-aware optimizers such as MoMo have."""
    return "loss" in inspect.signature(type(optimizer).step).parameters


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError where it is not a torch optimizer, and ValueError where it is one that LGA cannot attach to."""
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
