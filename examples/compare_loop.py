"""Compare training without and with LGA in your own loop: a Dataset, a DataLoader with dict batches, and a plain loop.

    lossaware compare examples/compare_loop.py:train --direction maximize --lrs 1e-4,1e-3 --seeds 6

You can also run it from Python: ``python examples/compare_loop.py``. It needs the extra ``studies``:
``pip install -e '.[studies]'`` in a clone of the repository.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import lossaware


class Digits(Dataset[dict[str, Tensor]]):
    """Handwritten digits. Every fifth image is in the test set."""

    def __init__(self, *, test: bool) -> None:
        images, labels = load_digits(return_X_y=True)
        chosen = [index for index in range(len(labels)) if (index % 5 == 0) is test]
        self.images = torch.tensor(images[chosen] / 16, dtype=torch.float32)
        self.labels = torch.tensor(labels[chosen])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "label": self.labels[index]}


def train(trial: lossaware.Trial, hidden: int = 32) -> float:
    """Handwritten digits, a network with one hidden layer."""
    loader = DataLoader(Digits(test=False), batch_size=64, shuffle=True)
    tests = DataLoader(Digits(test=True), batch_size=400)
    model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)).to(trial.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=trial.lr)
    trial.attach(optimizer, steps_per_epoch=len(loader), gamma2="auto")
    accuracy = 0.0
    for epoch in trial.epochs(5):
        total = 0.0
        for batch in loader:
            logits = model(batch["image"].to(trial.device))
            loss = nn.functional.cross_entropy(logits, batch["label"].to(trial.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)  # the same in both arms; without LGA this is the base step
            total += loss.item() / len(loader)
        with torch.no_grad():
            right = [model(batch["image"].to(trial.device)).argmax(1).cpu() == batch["label"] for batch in tests]
        accuracy = torch.cat(right).float().mean().item()
        trial.report(epoch, loss=total, accuracy=accuracy)
    return accuracy


if __name__ == "__main__":
    result = lossaware.compare(train, direction="maximize", lrs=[1e-4, 1e-3], seeds=6)
    print(result.verdict)
    result.report("compare_loop.html")
