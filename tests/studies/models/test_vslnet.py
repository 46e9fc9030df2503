"""VSLNet, step by step as its paper has it."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lossaware.studies.models.vslnet import (
    VSLNet,
    grounding,
)


def vslnet_batch():
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(2, 12, 1024, generator=generator)
    words = torch.randint(2, 50, (2, 6), generator=generator)
    words[0, 4:] = 0
    return video, torch.tensor([7, 12]), words


def test_vslnet_ignores_padding():
    torch.manual_seed(0)
    net = VSLNet().eval()
    video, lengths, words = vslnet_batch()
    with torch.no_grad():
        together = net(video, lengths, words)
        short = net(video[:1, :7], lengths[:1], words[:1, :4])
        video[0, 7:] = 1e3
        other = net(video, lengths, words)
    for a, b, c in zip(together, short, other, strict=True):
        torch.testing.assert_close(a[:1, :7], b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a[:, :7], c[:, :7])
    assert torch.isneginf(together[1][0, 7:]).all()
    assert torch.isneginf(together[2][0, 7:]).all()
    assert torch.isfinite(together[1][1]).all()


def encoded_step_by_step(encoder, x):
    """The output of the shared encoder of Zhang et al. (2020) for one sequence (time, size)."""

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
        result = net(video[None], torch.tensor([9]), words[None])
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
    for one, other in zip(result, (highlight, start, end), strict=True):
        torch.testing.assert_close(one[0], other[:, 0], rtol=1e-4, atol=1e-5)


def test_vslnet_starts_after_xavier_and_drops_a_fifth():
    net = VSLNet()
    bound = math.sqrt(6 / (1024 + 128))
    assert 0.99 * bound < float(net.project_video.weight.detach().abs().max()) <= bound
    assert torch.equal(net.project_video.bias, torch.zeros(128))
    assert {module.p for module in net.modules() if isinstance(module, nn.Dropout)} == {0.2}
    assert net.encoder.attention.dropout == 0.2


def test_the_end_is_predicted_from_the_states_of_the_start():
    torch.manual_seed(0)
    net: Any = VSLNet().eval()
    _, start, end = net(*vslnet_batch())
    end[1].sum().backward(retain_graph=True)
    assert net.start.weight_hh_l0.grad.abs().max() > 0
    net.end.zero_grad()
    start[1].sum().backward()
    assert net.end.weight_hh_l0.grad is None


def test_vslnet_depends_on_the_sentence_and_trains_every_part():
    torch.manual_seed(0)
    net = VSLNet()
    video, lengths, words = vslnet_batch()
    batch = (video, lengths, words, torch.tensor([1, 5]), torch.tensor([3, 11]), torch.tensor([[0.2, 0.5], [0.4, 1.0]]))
    measures = grounding(net, batch)
    measures["loss"].backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all(), name
        # Softmax is invariant to a constant added to all scores.
        if name not in ("start_score.2.bias", "end_score.2.bias"):
            assert parameter.grad.abs().max() > 0, name
    assert net.words.weight.grad[0].abs().max() == 0  # padding
    net.eval()
    with torch.no_grad():
        before = net(video, lengths, words)[1]
        words[1, 2] += 1
        assert not torch.allclose(net(video, lengths, words)[1][1], before[1])
