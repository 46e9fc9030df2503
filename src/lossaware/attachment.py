"""Attaching LGA to an optimizer: checks, hooks, and detaching.

The optimizer owns LGA by an attribute; LGA has a weak reference to the optimizer. So there is no reference cycle, and
both are freed together.
"""

import inspect
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NoReturn

from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.hooks import RemovableHandle

_COMPANION = "_lossaware_companion"
"""The optimizer's attribute that keeps LGA alive."""


def companion_of(optimizer: Any) -> Any:
    """The LGA that is attached to the optimizer, or None.

    Its class may be an older one if a notebook has imported the package again.
    """
    return getattr(optimizer, _COMPANION, None)


class Attachment:
    """The hooks of one LGA on one optimizer.

    LGA must read the same gradients as the base's step. So its pre hook is always the last and its post hook the first:
    other pre hooks may clip gradients, other post hooks may clear them.

    Args:
        optimizer: An optimizer that has passed `check_optimizer`.
        companion: The object that the optimizer keeps alive and `companion_of` returns.
        before_step: The step's pre hook.
        after_step: The step's post hook.
        before_save: Called before the optimizer writes a ``state_dict``.
        before_load: Called before the optimizer reads a ``state_dict``; returns the one to read.
        after_load: Called after it.
        after_zero_grad: Called after the optimizer's ``zero_grad``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        companion: object,
        *,
        before_step: Callable[..., Any],
        after_step: Callable[..., None],
        before_save: Callable[..., None],
        before_load: Callable[..., Any],
        after_load: Callable[..., None],
        after_zero_grad: Callable[[Optimizer], None],
    ) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.name = type(optimizer).__name__
        setattr(optimizer, _COMPANION, companion)

        def pre_hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if len(optimizer._optimizer_step_pre_hooks) != self._pre_hooks:
                self._check_order(optimizer)
            return before_step(optimizer, args, kwargs)

        def post_hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            after_step(optimizer, args, kwargs)
            if self.then is not None:
                self.then()

        self.then: Callable[[], object] | None = None
        """Called after each step, if set."""
        self._pre = optimizer.register_step_pre_hook(pre_hook)
        self._post = optimizer.register_step_post_hook(post_hook)
        _ordered(optimizer._optimizer_step_post_hooks).move_to_end(self._post.id, last=False)
        self._pre_hooks = 0  # at the last check
        optimizer.register_step_pre_hook = self._register_step_pre_hook  # type: ignore[method-assign]
        self._state_hooks = [
            optimizer.register_state_dict_pre_hook(before_save),
            optimizer.register_load_state_dict_pre_hook(before_load),
            optimizer.register_load_state_dict_post_hook(after_load),
        ]
        self._after_zero_grad = after_zero_grad
        optimizer.zero_grad = self._zero_grad  # type: ignore[method-assign]
        # copy, deepcopy and pickle call this; their results would not have the hooks.
        optimizer.__getstate__ = self._refuse_copy  # type: ignore[method-assign]
        self.active = True

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer.

        Raises:
            RuntimeError: It no longer exists.
        """
        optimizer = self._optimizer()
        if optimizer is None:
            raise RuntimeError(
                f"the optimizer of this LGA, {self.name}, no longer exists: LGA has only a weak reference, so keep a "
                "reference to it"
            )
        return optimizer

    def _refuse_copy(self) -> NoReturn:
        raise TypeError(
            f"{self.name} has LGA attached, which a copy or pickle of it would lose: call lga.detach() first, then "
            "attach a new LGA to the copy (lga.state_dict() carries the state over)"
        )

    def refuse_detached(self) -> None:
        """Raise RuntimeError if it is detached, or the optimizer no longer exists."""
        if not self.active:
            raise RuntimeError("this LGA is detached from its optimizer: attach a new one with LGA(optimizer, ...)")
        _ = self.optimizer

    def _register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """The optimizer's ``register_step_pre_hook``, which keeps LGA's hook last."""
        optimizer = self.optimizer
        handle = type(optimizer).register_step_pre_hook(optimizer, hook)
        _ordered(optimizer._optimizer_step_pre_hooks).move_to_end(self._pre.id)
        return handle

    def _zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer's ``zero_grad``, for which torch has no hook."""
        optimizer = self.optimizer
        type(optimizer).zero_grad(optimizer, *args, **kwargs)
        self._after_zero_grad(optimizer)

    def _check_order(self, optimizer: Optimizer) -> None:
        """Refuse a pre hook after LGA's that was not added by ``register_step_pre_hook``.

        Hooks cannot be moved while they run.
        """
        hooks = optimizer._optimizer_step_pre_hooks
        if (last := next(reversed(hooks))) != self._pre.id:
            raise RuntimeError(
                f"{self.name} has a step pre hook after LGA's, {_name_of(hooks[last])}, which may change gradients "
                "that LGA has read: register it by optimizer.register_step_pre_hook, or attach LGA after it"
            )
        self._pre_hooks = len(hooks)

    def other_step_hooks(self) -> list[str]:
        """The names of all other step hooks of the optimizer, including torch's global ones."""
        own, optimizer = (self._pre.id, self._post.id), self.optimizer
        return [
            _name_of(hook)
            for hooks, ours in (
                (_global_optimizer_pre_hooks, ()),
                (optimizer._optimizer_step_pre_hooks, own),
                (optimizer._optimizer_step_post_hooks, own),
                (_global_optimizer_post_hooks, ()),
            )
            for key, hook in hooks.items()
            if key not in ours
        ]

    def detach(self) -> None:
        """Remove all hooks. Detaching twice does nothing."""
        if not self.active:
            return
        self.active = False
        for handle in (self._pre, self._post, *self._state_hooks):
            handle.remove()
        optimizer = self._optimizer()
        if optimizer is not None:
            del optimizer.__getstate__
            del optimizer.register_step_pre_hook
            del optimizer.zero_grad
            delattr(optimizer, _COMPANION)


def _ordered(hooks: Any) -> "OrderedDict[int, Any]":
    """The hooks as an OrderedDict, which torch's type annotation does not state."""
    assert isinstance(hooks, OrderedDict)
    return hooks


def _name_of(hook: Any) -> str:
    return getattr(hook, "__qualname__", repr(hook))


def takes_loss(optimizer: Optimizer) -> bool:
    """Whether the optimizer's own step has an argument ``loss``, as other loss-aware optimizers such as MoMo have."""
    return "loss" in inspect.signature(type(optimizer).step).parameters


def check_optimizer(optimizer: Any, *, is_attached: bool) -> None:
    """Raise TypeError if it is not a torch optimizer, and ValueError if LGA does not support it."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"LGA attaches to a torch.optim.Optimizer: got {_remedy(optimizer)}")
    if isinstance(optimizer, LBFGS):
        raise ValueError("LGA does not support LBFGS, whose step evaluates many losses: use another optimizer")
    if not hasattr(optimizer, "_optimizer_step_post_hooks") or not getattr(type(optimizer).step, "hooked", False):
        inside = _optimizer_inside(optimizer)
        which = f", its .{inside}" if inside else ""
        raise ValueError(
            f"{name} does not run step hooks, so it wraps another optimizer: attach LGA to the one inside{which}"
        )
    if is_attached:
        raise ValueError(f"this {name} already has LGA attached: call detach() on that one first")


def _remedy(thing: Any) -> str:
    """Description of an argument that is not an optimizer, with the remedy."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}; create an instance, {thing.__name__}(model.parameters(), ...)"
    if isinstance(thing, (list, tuple, dict)):
        return f"a {type(thing).__name__}; attach one LGA to each optimizer"
    name, inside = type(thing).__name__, _optimizer_inside(thing)
    return f"{name}, which holds one; attach LGA to its .{inside}" if inside else name


def _optimizer_inside(wrapper: Any) -> str | None:
    """The attribute of a wrapper or scheduler with its optimizer; the public one if there are two."""
    names = [name for name, value in getattr(wrapper, "__dict__", {}).items() if isinstance(value, Optimizer)]
    public = [name.lstrip("_") for name in names if isinstance(getattr(wrapper, name.lstrip("_"), None), Optimizer)]
    return next(iter(public + names), None)
