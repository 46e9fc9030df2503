"""Measures of the networks' outputs, on known values."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from lossaware.studies.models.autoencoder import reconstruction
from lossaware.studies.models.autoeval import autoeval, turn_at_random, turned
from lossaware.studies.models.segmentation import one_hot, segmentation
from lossaware.studies.models.vslnet import (
    best_span,
    grounding,
    highlighted,
    overlap,
    within,
)


class Fixed(nn.Module):
    """Returns fixed outputs for any input."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = [nn.Parameter(output) for output in outputs]

    def forward(self, *inputs):
        return self.outputs[0] if len(self.outputs) == 1 else tuple(self.outputs)


def test_one_hot_masks():
    bag = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    assert one_hot(bag).tolist() == [[[[0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]]]


def test_segmentation_measures():
    """Image 1: bag at two pixels, predicted at two, one of them correct. Image 2: no bag, none predicted."""
    bag = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.uint8)
    predicted = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]])
    logits = torch.stack([1.0 - predicted, predicted], dim=1) * 4 - 2
    measures = segmentation(Fixed(logits), (torch.zeros(2, 3, 2, 2), bag))
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert measures["loss"].item() == pytest.approx((6 * right + 2 * wrong) / 8)
    assert measures["accuracy"].item() == pytest.approx(6 / 8)
    assert measures["iou"].item() == pytest.approx((1 / 3 + 1) / 2)
    measures["loss"].backward()


def test_reconstruction_is_the_binary_cross_entropy():
    x = torch.tensor([[0.0, 1.0, 0.25]])
    p = torch.tensor([[0.1, 0.8, 0.5]])
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).mean()
    measures = reconstruction(Fixed(p.logit()), (x, torch.zeros(1)))
    torch.testing.assert_close(measures["loss"].detach(), expected)


def test_turned_images():
    image = torch.tensor([[[1, 2], [3, 4]]])
    turns = turned(image.repeat(4, 1, 1, 1), torch.arange(4)).squeeze(1)
    assert turns.tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]


def test_random_turns_come_from_the_generator_and_are_all_drawn():
    batch = (torch.zeros(4000, 1, 2, 2), torch.zeros(4000, dtype=torch.int64))
    one, two = (turn_at_random(batch, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one[2], two[2])
    assert one[:2] == batch
    assert torch.bincount(one[2]).tolist() == pytest.approx([1000] * 4, rel=0.1)


class TellsTheCorner(nn.Module):
    """Classes by the brightest corner of the image, turns likewise."""

    def forward(self, images):
        corners = images[:, 0, [0, -1, -1, 0], [0, 0, -1, -1]]
        classes = functional.pad(corners, (0, 6)) * 10
        return classes.requires_grad_(), (corners * 20).requires_grad_()


@pytest.mark.parametrize("drawn", [False, True])
def test_autoeval_measures(drawn):
    """A bright top left corner: class 0. Turned counter-clockwise it goes down, right, up: turns 0, 1, 2, 3."""
    images = torch.zeros(2, 1, 28, 28)
    images[:, :, 0, 0] = 1
    labels = torch.tensor([0, 1])
    batch = (images, labels, torch.tensor([3, 2])) if drawn else (images, labels)
    measures = autoeval(TellsTheCorner(), batch)
    right = math.log(math.exp(10) + 9) - 10
    assert measures["loss_cls"].item() == pytest.approx((right + right + 10) / 2, rel=1e-5)
    assert measures["loss_rot"].item() == pytest.approx(math.log(1 + 3 * math.exp(-20)), abs=1e-6)
    assert measures["accuracy"].item() == 0.5
    assert measures["accuracy_rot"].item() == 1.0
    torch.testing.assert_close(measures["loss"], measures["loss_cls"] + measures["loss_rot"])


def test_autoeval_learns_the_turns_from_turned_images_only():
    """If the images were not rotated, or rotated in the other direction, some rotations would not be recognized."""
    images = torch.zeros(1, 1, 28, 28)
    images[:, :, -1, 0] = 1  # bottom left: the corner after one quarter of the one above
    assert float(autoeval(TellsTheCorner(), (images, torch.tensor([1]), torch.tensor([0])))["accuracy_rot"]) == 0.0


def test_positions_within_a_length():
    assert within(torch.tensor([1, 3]), 4).tolist() == [[True, False, False, False], [True, True, True, False]]


def test_highlighted_positions():
    """A tenth longer on both sides: no position for a span of 4, one for a span of 10, within the video."""
    start, end = torch.tensor([2, 3, 0, 15]), torch.tensor([5, 12, 19, 17])
    lengths = torch.tensor([20, 20, 20, 17])
    marked = highlighted(start, end, lengths, 20)
    expected = [(2, 5), (2, 13), (0, 19), (15, 16)]
    for row, (first, last) in zip(marked, expected, strict=True):
        assert row.nonzero().flatten().tolist() == list(range(first, last + 1))


def test_best_span_never_ends_before_it_starts():
    start = torch.tensor([[0.0, 5.0, 0.0], [3.0, 0.0, -torch.inf]])
    end = torch.tensor([[9.0, 1.0, 2.0], [0.0, 2.0, -torch.inf]])
    first, last = best_span(start, end)
    assert (first.tolist(), last.tolist()) == ([0, 0], [0, 1])
    start[0, 1] = 8.0
    assert [int(x[0]) for x in best_span(start, end)] == [1, 2]


def test_best_span_against_all_pairs():
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.randn(50, 7, generator=generator) for _ in range(2))
    first, last = best_span(start, end)
    p, q = start.softmax(1), end.softmax(1)
    for row in range(50):
        pairs = [(float(p[row, a] * q[row, b]), a, b) for a in range(7) for b in range(a, 7)]
        assert max(pairs)[1:] == (int(first[row]), int(last[row]))


def test_overlap_of_intervals():
    first = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.2, 0.4], [0.0, 0.6]])
    second = torch.tensor([[0.0, 1.0], [0.5, 1.0], [0.6, 0.8], [0.3, 1.2]])
    torch.testing.assert_close(overlap(first, second), torch.tensor([1.0, 0.0, 0.0, 0.3 / 1.2]))


def test_grounding_measures():
    """One video of 4 positions in a batch of 5; the model is sure of positions 1 to 2, the moment is 0.25 to 0.75."""
    inf = torch.inf
    highlight = torch.tensor([[-2.0, 3.0, 1.0, -1.0, 50.0]])
    start = torch.tensor([[0.0, 2.0, 0.0, 0.0, -inf]])
    end = torch.tensor([[0.0, 0.0, 3.0, 0.0, -inf]])
    lengths = torch.tensor([4])
    batch = (
        torch.zeros(1, 5, 1024), lengths, torch.tensor([[2]]), torch.tensor([1]), torch.tensor([2]),
        torch.tensor([[0.25, 0.75]]),
    )  # fmt: skip
    measures = grounding(Fixed(highlight, start, end), batch)
    sigmoid = highlight.sigmoid()[0]
    entropy = -((1 - sigmoid[0]).log() + 2 * sigmoid[1].log() + 2 * sigmoid[2].log() + (1 - sigmoid[3]).log()) / 4
    span = math.log(3 + math.exp(2)) - 2 + math.log(3 + math.exp(3)) - 3
    assert measures["loss_highlight"].item() == pytest.approx(float(entropy))
    assert measures["loss_span"].item() == pytest.approx(span)
    assert measures["loss"].item() == pytest.approx(span + 5 * float(entropy))
    assert [measures[name].item() for name in ("iou", "iou_50", "iou_70")] == [1.0, 1.0, 1.0]
    # The prediction is half of the moment.
    measures = grounding(Fixed(highlight, start, end), (*batch[:5], torch.tensor([[0.0, 0.9]])))
    assert measures["iou"].item() == pytest.approx(0.5 / 0.9)
    assert [measures[name].item() for name in ("iou_50", "iou_70")] == [1.0, 0.0]
    measures["loss"].backward()
