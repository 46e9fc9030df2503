"""The next character of the text of Python's help, by a small transformer or a recurrent network."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from lossaware.errors import UsageError
from lossaware.studies.data.python_text import characters, windows
from lossaware.studies.specs.task import Batch, Data, InMemory, Task

SUMMARY = "The next character of the text of Python's help, with a small transformer or a GRU"
CONTEXT, TRAIN, TEST = 48, 2048, 256


class Transformer(nn.Module):
    """Two blocks of width 48, with learned positions: (batch, length) to (batch, length, codes)."""

    def __init__(self, codes: int, width: int = 48) -> None:
        super().__init__()
        self.code = nn.Embedding(codes, width)
        self.position = nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, nhead=3, dim_feedforward=4 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes)

    def forward(self, text: Tensor) -> Tensor:
        """Logits (batch, length, codes)."""
        x = self.code(text) + self.position.weight[: text.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1], device=text.device)
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        result: Tensor = self.head(self.norm(x))
        return result


class Recurrent(nn.Module):
    """A GRU of 96 units: (batch, length) to (batch, length, codes)."""

    def __init__(self, codes: int, width: int = 96) -> None:
        super().__init__()
        self.code = nn.Embedding(codes, 32)
        self.recurrent = nn.GRU(32, width, batch_first=True)
        self.head = nn.Linear(width, codes)

    def forward(self, text: Tensor) -> Tensor:
        """Logits (batch, length, codes)."""
        result: Tensor = self.head(self.recurrent(self.code(text))[0])
        return result


NETWORKS: Mapping[str, type[nn.Module]] = {"transformer": Transformer, "gru": Recurrent}


def build(network: str = "transformer") -> Task:
    """Character model. Losses are in nats per character. The text depends on the version of Python.

    Args:
        network: ``"transformer"`` or ``"gru"``.
    """
    if network not in NETWORKS:
        raise UsageError(f"task 'characters': network must be {' or '.join(NETWORKS)}, got {network!r}")
    return Task(
        name="characters",
        summary=SUMMARY,
        model=partial(_model, network),
        data=load,
        measure=measure,
        score="loss",
        higher_is_better=False,
        percent=False,
        epochs=5,
        batch_size=32,
        gamma2=1e-6,
    )


def load(folder: Path | None = None) -> Data:
    """2,048 training windows from the first nine tenths of the text, and 256 test windows from the rest."""
    codes, _ = characters()
    cut = len(codes) * 9 // 10
    return Data(
        train=InMemory((windows(codes[:cut], CONTEXT + 1, TRAIN),)),
        test=InMemory((windows(codes[cut:], CONTEXT + 1, TEST),)),
    )


def measure(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Cross-entropy and accuracy of each next character of windows (batch, length + 1)."""
    (text,) = batch
    logits, targets = model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten()
    return {
        "loss": functional.cross_entropy(logits, targets),
        "accuracy": (logits.detach().argmax(dim=1) == targets).float().mean(),
    }


def _model(network: str) -> nn.Module:
    return NETWORKS[network](characters()[1])
