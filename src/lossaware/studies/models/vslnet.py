"""VSLNet (Zhang et al., 2020), which locates the moment of a video that a sentence describes, with its losses.

It follows the paper and its authors' code, with four differences. Word vectors are learned from a random start, as
GloVe's are not available, and there are no character embeddings. The self-attention is torch's, which adds a linear
layer after its heads. Padding is masked in the convolutions and in the attention too, so that a result does not depend
on the rest of the batch. Gradients are not clipped, because the optimizer is under study.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch

PADDING = 0
HIGHLIGHT_WEIGHT = 5.0
EXTENSION = 0.1


class VSLNet(nn.Module):
    """A span-based localizer with query-guided highlighting.

    Linear and convolutional weights have Xavier's uniform initialisation, their biases are 0, and the rest has torch's
    default initialisation.

    Args:
        words: Rows of the word embedding; row 0 is padding.
        word_size: Length of a word's vector.
        feature_size: Length of a video feature.
        size: Hidden length.
        heads: Heads of the self-attention.
        positions: Longest sequence.
        dropout: Dropout probability.
    """

    def __init__(
        self,
        words: int = 2048,
        word_size: int = 300,
        feature_size: int = 1024,
        size: int = 128,
        heads: int = 8,
        positions: int = 128,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, word_size, padding_idx=PADDING)
        self.dropout = nn.Dropout(dropout)
        self.project_words = nn.Linear(word_size, size)
        self.project_video = nn.Linear(feature_size, size)
        self.encoder = _Encoder(size, heads, positions, dropout)
        self.attention = _ContextQueryAttention(size, dropout)
        self.pool = nn.Linear(size, 1, bias=False)
        self.join = nn.Linear(2 * size, size)
        self.highlight = nn.Linear(size, 1)
        self.start = nn.LSTM(size, size, batch_first=True)
        self.end = nn.LSTM(size, size, batch_first=True)
        self.start_score = nn.Sequential(nn.Linear(2 * size, size), nn.ReLU(), nn.Linear(size, 1))
        self.end_score = nn.Sequential(nn.Linear(2 * size, size), nn.ReLU(), nn.Linear(size, 1))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, video: Tensor, lengths: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of every position of the video.

        Args:
            video: (batch, time, feature size); positions beyond a video's length are ignored.
            lengths: (batch), int64: number of positions of each video, at least 1.
            words: (batch, words), int64, at least one word per sentence, then `PADDING`.

        Returns:
            Three tensors (batch, time): logits of being inside the moment, of its start and of its end; the last two
            are minus infinity beyond the video's length.
        """
        video_mask = within(lengths, video.shape[1])
        query_mask = words != PADDING
        context = self.encoder(self.project_video(self.dropout(video)), video_mask)
        query = self.encoder(self.project_words(self.dropout(self.words(words))), query_mask)
        fused = self.attention(context, query, video_mask, query_mask)
        weights = _softmax(self.pool(query), query_mask.unsqueeze(2), dim=1)
        sentence = (weights * query).sum(dim=1, keepdim=True).expand_as(fused)
        fused = self.join(torch.cat([fused, sentence], dim=2))
        highlight = self.highlight(fused)
        fused = fused * highlight.sigmoid() * video_mask.unsqueeze(2)
        # The conditioned span predictor: the end depends on the hidden states of the start.
        starts, _ = self.start(fused)
        ends, _ = self.end(starts)
        start = self.start_score(torch.cat([starts, fused], dim=2)).squeeze(2).masked_fill(~video_mask, -torch.inf)
        end = self.end_score(torch.cat([ends, fused], dim=2)).squeeze(2).masked_fill(~video_mask, -torch.inf)
        return highlight.squeeze(2), start, end


class _Encoder(nn.Module):
    """Positions, four depthwise separable convolutions, self-attention, a linear layer; shared by video and query."""

    def __init__(self, size: int, heads: int, positions: int, dropout: float, layers: int = 4, kernel: int = 7) -> None:
        super().__init__()
        self.positions = nn.Embedding(positions, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size, eps=1e-6) for _ in range(layers))
        self.depthwise = nn.ModuleList(
            nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=size, bias=False) for _ in range(layers)
        )
        self.pointwise = nn.ModuleList(nn.Linear(size, size) for _ in range(layers))
        self.attention_norm = nn.LayerNorm(size, eps=1e-6)
        self.attention = nn.MultiheadAttention(size, heads, dropout, batch_first=True)
        self.last_norm = nn.LayerNorm(size, eps=1e-6)
        self.last = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.positions.weight[: x.shape[1]]
        for norm, depthwise, pointwise in zip(self.norms, self.depthwise, self.pointwise, strict=True):
            masked = norm(x) * mask.unsqueeze(2)
            x = x + self.dropout(pointwise(depthwise(masked.transpose(1, 2)).transpose(1, 2)).relu())
        normed = self.dropout(self.attention_norm(x))
        attended, _ = self.attention(normed, normed, normed, key_padding_mask=~mask, need_weights=False)
        x = x + self.dropout(attended)
        out: Tensor = x + self.dropout(self.last(self.dropout(self.last_norm(x))))
        return out


class _ContextQueryAttention(nn.Module):
    """Attention between the positions of the video and the words, in both directions (trilinear similarity)."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.of_context = nn.Linear(size, 1, bias=False)
        self.of_query = nn.Linear(size, 1, bias=False)
        self.of_both = nn.Parameter(torch.empty(1, size))
        self.join = nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.of_both)

    def forward(self, context: Tensor, query: Tensor, video_mask: Tensor, query_mask: Tensor) -> Tensor:
        c, q = self.dropout(context), self.dropout(query)
        scores = self.of_context(c) + self.of_query(q).transpose(1, 2) + (c * self.of_both) @ q.transpose(1, 2)
        to_query = _softmax(scores, query_mask.unsqueeze(1), dim=2)
        to_context = _softmax(scores, video_mask.unsqueeze(2), dim=1)
        c2q = to_query @ query
        q2c = to_query @ (to_context.transpose(1, 2) @ context)
        out: Tensor = self.join(torch.cat([context, c2q, context * c2q, context * q2c], dim=2))
        return out


def _softmax(scores: Tensor, mask: Tensor, dim: int) -> Tensor:
    return scores.masked_fill(~mask, -torch.inf).softmax(dim)


def within(lengths: Tensor, time: int) -> Tensor:
    """(batch, time): whether a position is within the length."""
    return torch.arange(time, device=lengths.device) < lengths.unsqueeze(1)


def highlighted(start: Tensor, end: Tensor, lengths: Tensor, time: int) -> Tensor:
    """(batch, time): whether a position is in the moment, extended by a tenth on both sides.

    Args:
        start: (batch), int64, the first position.
        end: (batch), int64, the last position.
        lengths: (batch), int64, the length of the video.
        time: Positions of the longest video.
    """
    more = ((end - start + 1) * EXTENSION).round().long().unsqueeze(1)
    position = torch.arange(time, device=start.device)
    wide = (position >= start.unsqueeze(1) - more) & (position <= end.unsqueeze(1) + more)
    return wide & within(lengths, time)


def best_span(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The most likely start and end with start <= end, each (batch), for logits (batch, time)."""
    # Products of probabilities are sums of logits, up to a constant for all pairs.
    pairs = start.unsqueeze(2) + end.unsqueeze(1)
    ordered = torch.ones_like(pairs, dtype=torch.bool).triu()
    place = pairs.masked_fill(~ordered, -torch.inf).flatten(1).argmax(dim=1)
    return place // start.shape[1], place % start.shape[1]


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of intervals (batch, 2), each (batch)."""
    both = (torch.minimum(first[:, 1], second[:, 1]) - torch.maximum(first[:, 0], second[:, 0])).clamp(min=0)
    either = torch.maximum(first[:, 1], second[:, 1]) - torch.minimum(first[:, 0], second[:, 0])
    return both / either


def grounding(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Losses and accuracies of a model that locates moments.

    Args:
        model: A `VSLNet`.
        batch: Video (batch, time, feature size), lengths (batch), words (batch, words), start and end (batch), the
            first and last position of the moment, and the moment (batch, 2) itself, as fractions of the video.

    Returns:
        ``"loss"``: ``"loss_span"``, the cross-entropies of start and end in nats, plus 5 x ``"loss_highlight"``, the
        binary cross-entropy of the highlighting, in which positions of the moment count twice. ``"iou"``: the mean
        intersection over union of the prediction with the moment; ``"iou_50"`` and ``"iou_70"``: the share of examples
        where it is at least 0.5 and 0.7.
    """
    video, lengths, words, start, end, moment = batch
    highlight, start_logits, end_logits = model(video, lengths, words)
    time = video.shape[1]
    targets = highlighted(start, end, lengths, time).float()
    weights = within(lengths, time) * (1 + targets)
    entropy = functional.binary_cross_entropy_with_logits(highlight, targets, reduction="none")
    loss_highlight = (entropy * weights).sum() / lengths.sum()
    loss_span = functional.cross_entropy(start_logits, start) + functional.cross_entropy(end_logits, end)
    first, last = best_span(start_logits.detach(), end_logits.detach())
    predicted = torch.stack([first, last + 1], dim=1) / lengths.unsqueeze(1)
    iou = overlap(predicted, moment)
    return {
        "loss": loss_span + HIGHLIGHT_WEIGHT * loss_highlight,
        "loss_span": loss_span,
        "loss_highlight": loss_highlight,
        "iou": iou.mean(),
        "iou_50": (iou >= 0.5).float().mean(),
        "iou_70": (iou >= 0.7).float().mean(),
    }
