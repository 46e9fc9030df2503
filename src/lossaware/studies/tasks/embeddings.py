"""The next word from the three before it, with embeddings initialised from N(0, 1), torch's default."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.data.python_text import windows, words
from lossaware.studies.specs.task import Batch, Data, InMemory, Task

SUMMARY = "The next of 2,000 words of the text of Python's help, from the three before it, with embeddings"
VOCABULARY, BEFORE, TRAIN, TEST = 2000, 3, 12_800, 2000


def build() -> Task:
    """Words with embeddings: per step only a few rows have a gradient. The text depends on the version of Python."""
    return Task(
        name="embeddings",
        summary=SUMMARY,
        model=_model,
        data=load,
        measure=measure,
        score="loss",
        higher_is_better=False,
        percent=False,
        epochs=3,
        batch_size=64,
        gamma2=1e-6,
    )


def load(folder: Path | None = None) -> Data:
    """12,800 training windows from the first nine tenths of the text, 2,000 test windows from the rest."""
    codes = words(VOCABULARY)
    cut = len(codes) * 9 // 10
    return Data(
        train=InMemory((windows(codes[:cut], BEFORE + 1, TRAIN),)),
        test=InMemory((windows(codes[cut:], BEFORE + 1, TEST),)),
    )


def measure(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Cross-entropy in nats, and accuracy, of the last word of each window (batch, 4)."""
    (text,) = batch
    logits, targets = model(text[:, :-1]), text[:, -1]
    return {
        "loss": functional.cross_entropy(logits, targets),
        "accuracy": (logits.detach().argmax(dim=1) == targets).float().mean(),
    }


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(VOCABULARY, 32), nn.Flatten(), nn.Linear(32 * BEFORE, 64), nn.ReLU(), nn.Linear(64, VOCABULARY)
    )
