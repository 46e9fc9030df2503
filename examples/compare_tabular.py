"""Does LGA help on a table of numbers? A regression, whose score is an error: lower is better.

    lossaware compare compare_tabular.py:train --direction minimize --lrs 1e-4,1e-3 --seeds 6

The optimizer comes from the trial, so that other optimizers can be arms:

    lossaware compare compare_tabular.py:train --direction minimize --lrs 1e-3 --arms "sgd,adamw,prodigy(lr=1)"

It needs ``pip install -e '.[studies]'`` in a clone of the repository.
"""

import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossaware


def train(trial: lossaware.Trial, hidden: int = 16) -> float:
    """Progress of a disease after a year, from ten measurements; the mean absolute error in standard deviations."""
    inputs, targets = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    targets = ((targets - targets.mean()) / targets.std())[:, None]
    train_x, test_x, train_y, test_y = train_test_split(inputs, targets, test_size=0.25, random_state=trial.seed)
    loader = DataLoader(TensorDataset(train_x, train_y), batch_size=32, shuffle=True)

    model = nn.Sequential(nn.Linear(10, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    optimizer = trial.make_optimizer(model.parameters(), "sgd", momentum=0.9)
    trial.attach(optimizer, steps_per_epoch=len(loader), gamma2="auto")
    error = float("nan")
    for epoch in trial.epochs(10):
        for x, y in loader:
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)
        with torch.no_grad():
            error = (model(test_x) - test_y).abs().mean().item()
        trial.report(epoch, loss=loss, error=error)
    return error
