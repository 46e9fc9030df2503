"""Which loss LGA gets where the Trainer's own count of items and the loss do not go together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import needs

transformers = needs("transformers")

from loop import assert_matters  # noqa: E402
from transformers_model import LossAwareTrainer, make_trainer, plain  # noqa: E402

from lossaware.recipes.item_count import watched_count  # noqa: E402

TOO_LARGE = "the gradients and the logged loss are 4 times too large, with and without LGA"


@pytest.fixture(autouse=True)
def _warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="LGA got no loss")
        yield


class Own(LossAwareTrainer):
    """Computes its own loss, the mean of the micro-batch."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class Weighted(LossAwareTrainer):
    """Calls the Trainer's, and adds to it."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return 1.0 * super().compute_loss(model, inputs, *args, **kwargs)


def mean_of_rows(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs.logits, labels)


def share_of_items(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    loss = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
    return loss * (1.0 / num_items_in_batch.to(loss.device))


def assert_same_training(ours: Any, expected: Any) -> None:
    trajectory, lga, losses = expected
    assert len(ours.trajectory) == len(trajectory)
    for a, b in zip(ours.trajectory, trajectory, strict=True):
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=2e-6)
    assert vars(ours.lga.status) == pytest.approx(vars(lga.status), rel=1e-5)
    assert ours.lga.status.upper_bound == pytest.approx(losses[0], rel=1e-6)
    assert_matters(ours.lga)


@pytest.mark.parametrize(
    ("kind", "cls", "own", "remedy"),
    [
        ("language model", Own, {}, "set trainer.model_accepts_loss_kwargs = False"),
        ("classifier as it is", LossAwareTrainer, {}, "set trainer.model_accepts_loss_kwargs = False"),
        ("classifier as it is", LossAwareTrainer, {"compute_loss_func": mean_of_rows}, "divide it by num_items_in_bat"),
        ("classifier", LossAwareTrainer, {"compute_loss_func": mean_of_rows}, "divide it by num_items_in_batch"),
    ],
    ids=["own compute_loss", "a model that ignores the count", "own function", "own function of a model without count"],
)
def test_a_mean_is_not_added_up(tmp_path: Path, kind: str, cls: Any, own: Any, remedy: str) -> None:
    """Before, U was four times the true loss. The gradients are the same as without LGA."""
    ours = make_trainer(tmp_path, kind, cls=cls, own=own, gradient_accumulation_steps=4, rows=64)
    with pytest.warns(UserWarning, match=f"{TOO_LARGE}.*{remedy}") as caught:
        ours.train()
    assert len([w for w in caught if "too large" in str(w.message)]) == 1
    kind = "classifier" if kind.startswith("classifier") else kind
    assert_same_training(ours, plain(kind, 4, 64, sums=True))


@pytest.mark.filterwarnings("error:.*too large")
@pytest.mark.parametrize(
    ("kind", "cls", "own"),
    [
        ("language model", LossAwareTrainer, {}),
        ("language model", Weighted, {}),
        ("classifier as it is", LossAwareTrainer, {"compute_loss_func": share_of_items}),
    ],
    ids=["by the model", "by the Trainer's own", "by an own function"],
)
def test_a_share_is_added_up(tmp_path: Path, kind: str, cls: Any, own: Any) -> None:
    ours = make_trainer(tmp_path, kind, cls=cls, own=own, gradient_accumulation_steps=4, rows=64)
    ours.train()
    kind = "classifier" if kind.startswith("classifier") else kind
    assert_same_training(ours, plain(kind, 4, 64))


@pytest.mark.filterwarnings("error:.*too large")
@pytest.mark.parametrize("remedy", ["model_accepts_loss_kwargs", "loss_is_scaled_for_ga"])
def test_the_remedies_are_some(tmp_path: Path, remedy: str) -> None:
    if not hasattr(transformers.Trainer, remedy) and remedy == "loss_is_scaled_for_ga":
        pytest.skip("this version of Transformers does not have it")
    ours = make_trainer(tmp_path, "classifier as it is", cls=Own, gradient_accumulation_steps=4, rows=64)
    setattr(ours, remedy, False)
    ours.train()
    assert_same_training(ours, plain("classifier", 4, 64))


@pytest.mark.filterwarnings("error:.*too large")
def test_without_accumulation_there_is_nothing_to_say(tmp_path: Path) -> None:
    ours = make_trainer(tmp_path, "classifier as it is", rows=16)
    ours.train()
    assert_same_training(ours, plain("classifier", 1, 16))


def test_a_compiled_model(tmp_path: Path) -> None:
    """The first micro-batch, in which the count is watched, runs eagerly."""
    compiled: dict[str, Any] = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    ours = make_trainer(tmp_path, "classifier as it is", gradient_accumulation_steps=4, rows=64, **compiled)
    with pytest.warns(UserWarning, match=TOO_LARGE):
        ours.train()
    assert_same_training(ours, plain("classifier", 4, 64, sums=True))


# The count itself -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "is_used"),
    [
        (lambda loss, count: loss / count, True),
        (lambda loss, count: loss.mul(count.reciprocal()), True),
        (lambda loss, count: torch.div(loss, other=count.to(torch.float64).to("cpu")), True),
        (lambda loss, count: loss / float(count), True),
        (lambda loss, count: loss / count.item(), True),
        (lambda loss, count: torch.stack([loss, loss]).sum() / torch.stack([count, count]).sum(), True),
        (lambda loss, count: loss, False),
        (lambda loss, count: loss.to(count.device), False),
        (lambda loss, count: loss * loss.new_ones(count.shape), False),
        (lambda loss, count: loss if count.dim() == 0 and not count.requires_grad else None, False),
    ],
)
def test_a_count_knows_whether_it_is_used(use: Any, is_used: bool) -> None:
    loss: Any = torch.tensor(3.0, requires_grad=True)
    count, plain_count = watched_count(torch.tensor(7)), torch.tensor(7)
    assert count is not None
    result = use(loss, count)
    assert count.is_used == is_used
    assert type(result) is torch.Tensor
    assert torch.equal(result, use(loss, plain_count))
    result.backward()
    assert loss.grad is not None


@pytest.mark.parametrize("count", [7, torch.tensor([7, 7])], ids=["a Python number", "a tensor for two devices"])
def test_some_counts_cannot_be_watched(count: Any) -> None:
    assert watched_count(count) is None
