"""The networks of the paper: sizes known from elsewhere, shapes, and what is measured of them, on values."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from lossaware.studies.models.autoencoder import convolutional_autoencoder, dense_autoencoder, reconstruction
from lossaware.studies.models.autoeval import AutoEval, autoeval, turn_at_random, turned
from lossaware.studies.models.densenet import densenet
from lossaware.studies.models.initialisation import he_normal
from lossaware.studies.models.lenet import lenet5
from lossaware.studies.models.resnet import resnet50
from lossaware.studies.models.segmentation import encoder_decoder, one_hot, segmentation
from lossaware.studies.models.vslnet import (
    VSLNet,
    best_span,
    grounding,
    highlighted,
    overlap,
    within,
)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + outputs * bias


@pytest.mark.parametrize(
    ("make", "shape", "count", "outputs"),
    [
        # Huang et al. (2017), Table 2: 1.0M. He et al. (2016): the counts that every published ResNet-50 has.
        (densenet, (3, 32, 32), 1_019_722, (10,)),
        (lambda: resnet50(100, "3x3"), (3, 32, 32), 23_705_252, (100,)),
        (lambda: resnet50(1000), (3, 64, 64), 25_557_032, (1000,)),
        (lambda: resnet50(200), (3, 64, 64), 25_557_032 - 800 * 2049, (200,)),
        (
            dense_autoencoder,
            (1, 28, 28),
            sum(linear(*s) for s in ((784, 256), (256, 64), (64, 256), (256, 784))),
            (1, 28, 28),
        ),
        (convolutional_autoencoder, (3, 32, 32), 588 + 4632 + 18480 + 18456 + 4620 + 579, (3, 32, 32)),
    ],
)
def test_a_network_has_the_known_size_and_the_outputs_shape(make, shape, count, outputs):
    net = make().eval()
    assert parameters(net) == count
    with torch.no_grad():
        assert net(torch.zeros(2, *shape)).shape == (2, *outputs)


def test_segmentation_network():
    def block(inputs, outputs):
        return 9 * inputs * outputs + outputs + 2 * outputs

    down = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    up = (512, 256, 128, 64, 32, 16)
    expected = sum(block(a, b) for sizes in (down, up) for a, b in pairwise(sizes)) + linear(16, 2)
    net = encoder_decoder().eval()
    assert parameters(net) == expected == 10_798_834
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 64, 32)).shape == (1, 2, 64, 32)
        # Five times halved: a 32nd of the side lies between encoder and decoder.
        middle = net[: [type(m) for m in net].index(nn.ConvTranspose2d)]
        assert middle(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 7, 7)


@pytest.mark.parametrize(("pad", "lenet"), [(2, 61_706), (0, 44_426)])
def test_autoeval_is_lenet_with_a_second_head(pad, lenet):
    net = AutoEval(pad)
    assert parameters(net) == lenet + linear(84, 4)
    classes, turns = net(torch.zeros(3, 1, 28, 28))
    assert (classes.shape, turns.shape) == ((3, 10), (3, 4))


def test_vslnet_has_the_size_of_its_parts():
    d = 128
    encoder = (
        128 * d + 4 * (7 * d + linear(d, d) + 2 * d) + 2 * 2 * d + (linear(d, 3 * d) + linear(d, d)) + linear(d, d)
    )
    attention = 3 * d + linear(4 * d, d)
    lstm = 4 * (2 * d * d + 2 * d)
    score = linear(2 * d, d) + linear(d, 1)
    rest = 2048 * 300 + linear(300, d) + linear(1024, d) + d + linear(2 * d, d) + linear(d, 1)
    assert parameters(VSLNet()) == encoder + attention + 2 * lstm + 2 * score + rest


def test_a_dense_layer_keeps_what_it_gets_and_adds_its_growth():
    layer = densenet()[1].eval()
    x = torch.randn(2, 16, 8, 8)
    y = layer(x)
    assert y.shape == (2, 28, 8, 8)
    torch.testing.assert_close(y[:, :16], x)
    torch.testing.assert_close(y[:, 16:], layer.new[2](layer.new[0](x).relu()))


def test_densenet_takes_no_other_depth():
    with pytest.raises(ValueError, match="4 more than a multiple of 3, got 41"):
        densenet(depth=41)


def sides(net, x):
    """The sides that the image has on its way, each once."""
    seen = []
    for stage in net:
        x = stage(x)
        if x.dim() == 4 and (not seen or seen[-1] != x.shape[-1]):
            seen.append(x.shape[-1])
    return seen


def test_densenet_halves_the_image_between_its_blocks_and_rectifies_after_each():
    net = densenet().eval()
    with torch.no_grad():
        assert sides(net, torch.zeros(1, 3, 32, 32)) == [32, 16, 8, 1]
    kinds = [type(stage) for stage in net]
    assert [kinds[i + 1] for i, kind in enumerate(kinds) if kind is nn.BatchNorm2d] == [nn.ReLU] * 3
    assert isinstance(net[-4], nn.ReLU)


def test_a_bottleneck_adds_three_convolutions_to_its_shortcut():
    torch.manual_seed(0)
    stages = list(resnet50(10).eval())
    first, second = (stage for stage in stages[4:6])
    x = torch.randn(2, 64, 8, 8)

    def normed(convolution, norm, x):
        y = convolution(x)
        mean, var = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        return (y - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]

    for block in (first, second):
        a, b, _, c, d, _, e, f = block.residual
        inner = normed(e, f, normed(c, d, normed(a, b, x).relu()).relu())
        past = normed(*block.shortcut, x) if block is first else x
        y = block(x)
        torch.testing.assert_close(y, (inner + past).relu())
        x = y


@pytest.mark.parametrize("make", [densenet, lambda: resnet50(100, "3x3")])
def test_residual_and_dense_networks_start_after_he(make):
    torch.manual_seed(0)
    net = make()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            outputs, _, height, width = module.weight.shape
            assert float(module.weight.detach().std()) == pytest.approx(
                math.sqrt(2 / (outputs * height * width)), rel=0.1
            )
    assert torch.equal(net[-1].bias, torch.zeros_like(net[-1].bias))


def rectified(net):
    """For each convolution and linear layer, whether its outputs are rectified before the next one."""
    found = []
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            found.append(False)
        elif isinstance(module, nn.ReLU):
            found[-1] = True
    return found


@pytest.mark.parametrize("make", [encoder_decoder, dense_autoencoder, convolutional_autoencoder, lenet5])
def test_all_layers_but_the_last_are_rectified(make):
    *inner, last = rectified(make())
    assert all(inner)
    assert not last


@pytest.mark.parametrize(("make", "pools"), [(lenet5, 2), (encoder_decoder, 5)])
def test_images_are_halved_by_the_maximum(make, pools):
    assert [type(stage) for stage in make() if "Pool" in type(stage).__name__] == [nn.MaxPool2d] * pools


def test_resnet_halves_the_image_where_its_stem_and_stages_say():
    with torch.no_grad():
        assert sides(resnet50(10, "3x3").eval(), torch.zeros(1, 3, 32, 32)) == [32, 16, 8, 4, 1]
        assert sides(resnet50(10).eval(), torch.zeros(1, 3, 64, 64)) == [32, 16, 8, 4, 2, 1]


def test_he_initialisation_has_its_variance():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(40, 80, 3, bias=False), nn.BatchNorm2d(80), nn.Linear(80, 10))
    he_normal(net)
    weight = net[0].weight
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / (80 * 9)), rel=0.02)
    assert abs(float(weight.detach().mean())) < 1e-3
    assert torch.equal(net[2].bias, torch.zeros(10))
    assert torch.equal(net[1].weight, torch.ones(80))


class Fixed(nn.Module):
    """Gives what it was told to, whatever it gets."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = [nn.Parameter(output) for output in outputs]

    def forward(self, *inputs):
        return self.outputs[0] if len(self.outputs) == 1 else tuple(self.outputs)


def test_one_hot_masks():
    bag = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    assert one_hot(bag).tolist() == [[[[0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]]]


def test_segmentation_measures():
    """Image 1: bag at two pixels, found at two, one of them right. Image 2: no bag, none found."""
    bag = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.uint8)
    found = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]])
    logits = torch.stack([1.0 - found, found], dim=1) * 4 - 2
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
    """Were the turned images not turned, or turned the other way, some of the turns would not be told."""
    images = torch.zeros(1, 1, 28, 28)
    images[:, :, -1, 0] = 1  # bottom left: the corner after one quarter of the one above
    assert float(autoeval(TellsTheCorner(), (images, torch.tensor([1]), torch.tensor([0])))["accuracy_rot"]) == 0.0


def test_positions_within_a_length():
    assert within(torch.tensor([1, 3]), 4).tolist() == [[True, False, False, False], [True, True, True, False]]


def test_highlighted_positions():
    """A tenth longer on both sides: nothing for a span of 4, one position for one of 10, cut at the video's ends."""
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
    # The moment is longer than what is found: half of it.
    measures = grounding(Fixed(highlight, start, end), (*batch[:5], torch.tensor([[0.0, 0.9]])))
    assert measures["iou"].item() == pytest.approx(0.5 / 0.9)
    assert [measures[name].item() for name in ("iou_50", "iou_70")] == [1.0, 0.0]
    measures["loss"].backward()


def vslnet_batch():
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(2, 12, 1024, generator=generator)
    words = torch.randint(2, 50, (2, 6), generator=generator)
    words[0, 4:] = 0
    return video, torch.tensor([7, 12]), words


def test_vslnet_sees_no_padding():
    torch.manual_seed(0)
    net = VSLNet().eval()
    video, lengths, words = vslnet_batch()
    with torch.no_grad():
        together = net(video, lengths, words)
        alone = net(video[:1, :7], lengths[:1], words[:1, :4])
        video[0, 7:] = 1e3
        other = net(video, lengths, words)
    for a, b, c in zip(together, alone, other, strict=True):
        torch.testing.assert_close(a[:1, :7], b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a[:, :7], c[:, :7])
    assert torch.isneginf(together[1][0, 7:]).all()
    assert torch.isneginf(together[2][0, 7:]).all()
    assert torch.isfinite(together[1][1]).all()


def encoded_step_by_step(encoder, x):
    """What the shared encoder of Zhang et al. (2020) makes of one sequence (time, size)."""

    def normed(norm, x):
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt() * norm.weight

    x = x + encoder.positions.weight[: len(x)]
    for norm, depthwise, pointwise in zip(encoder.norms, encoder.depthwise, encoder.pointwise, strict=True):
        padded = functional.pad(normed(norm, x), (0, 0, 3, 3))
        filtered = torch.stack([(padded[t : t + 7] * depthwise.weight[:, 0].T).sum(0) for t in range(len(x))])
        x = x + pointwise(filtered).clamp(min=0)
    attention = encoder.attention
    projected = normed(encoder.attention_norm, x) @ attention.in_proj_weight.T + attention.in_proj_bias
    heads = [
        (q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v
        for q, k, v in zip(*(part.chunk(8, 1) for part in projected.chunk(3, 1)), strict=True)
    ]
    x = x + attention.out_proj(torch.cat(heads, 1))
    return x + encoder.last(normed(encoder.last_norm, x))


def test_vslnet_is_that_of_its_paper_step_by_step():
    torch.manual_seed(0)
    net = VSLNet(words=50).eval()
    video, words = torch.randn(9, 1024), torch.randint(2, 50, (5,))
    with torch.no_grad():
        found = net(video[None], torch.tensor([9]), words[None])
        context = encoded_step_by_step(net.encoder, net.project_video(video))
        query = encoded_step_by_step(net.encoder, net.project_words(net.words.weight[words]))
        # Context-query attention.
        cqa = net.attention
        pairs = torch.cat([context[:, None].expand(9, 5, -1), query.expand(9, 5, -1), context[:, None] * query], 2)
        scores = pairs @ torch.cat([cqa.of_context.weight, cqa.of_query.weight, cqa.of_both], 1)[0]
        to_query, to_context = scores.softmax(1), scores.softmax(0)
        answered, echoed = to_query @ query, to_query @ to_context.T @ context
        fused = cqa.join(torch.cat([context, answered, context * answered, context * echoed], 1))
        # Query-guided highlighting.
        sentence = (query @ net.pool.weight[0]).softmax(0) @ query
        fused = net.join(torch.cat([fused, sentence.expand(9, -1)], 1))
        highlight = net.highlight(fused)
        fused = highlight.sigmoid() * fused
        # The conditioned span predictor.
        starts, _ = net.start(fused)
        ends, _ = net.end(starts)
        start, end = net.start_score(torch.cat([starts, fused], 1)), net.end_score(torch.cat([ends, fused], 1))
    for one, other in zip(found, (highlight, start, end), strict=True):
        torch.testing.assert_close(one[0], other[:, 0], rtol=1e-4, atol=1e-5)


def test_vslnet_starts_after_xavier_and_drops_a_fifth():
    net = VSLNet()
    bound = math.sqrt(6 / (1024 + 128))
    assert 0.99 * bound < float(net.project_video.weight.detach().abs().max()) <= bound
    assert torch.equal(net.project_video.bias, torch.zeros(128))
    assert {module.p for module in net.modules() if isinstance(module, nn.Dropout)} == {0.2}
    assert net.encoder.attention.dropout == 0.2


def test_the_end_is_looked_for_in_what_the_search_for_the_start_has_seen():
    torch.manual_seed(0)
    net = VSLNet().eval()
    _, start, end = net(*vslnet_batch())
    end[1].sum().backward(retain_graph=True)
    assert net.start.weight_hh_l0.grad.abs().max() > 0
    net.end.zero_grad()
    start[1].sum().backward()
    assert net.end.weight_hh_l0.grad is None


def test_vslnet_hears_the_sentence_and_trains_every_part():
    torch.manual_seed(0)
    net = VSLNet()
    video, lengths, words = vslnet_batch()
    batch = (video, lengths, words, torch.tensor([1, 5]), torch.tensor([3, 11]), torch.tensor([[0.2, 0.5], [0.4, 1.0]]))
    measures = grounding(net, batch)
    measures["loss"].backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all(), name
        # What is added to every score alike, no softmax sees.
        if name not in ("start_score.2.bias", "end_score.2.bias"):
            assert parameter.grad.abs().max() > 0, name
    assert net.words.weight.grad[0].abs().max() == 0  # padding
    net.eval()
    with torch.no_grad():
        before = net(video, lengths, words)[1]
        words[1, 2] += 1
        assert not torch.allclose(net(video, lengths, words)[1][1], before[1])
