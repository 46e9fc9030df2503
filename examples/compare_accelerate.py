"""Does LGA help in a script of Accelerate? It is started by its own launcher.

    lossaware compare --command "accelerate launch compare_accelerate.py" --direction maximize --lrs 1e-4,1e-3

By itself, ``accelerate launch compare_accelerate.py`` trains with LGA and prints what it reports. It needs
``pip install -e '.[studies,accelerate]'`` in a clone of the repository.
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossaware
from lossaware.recipes.accelerate import backward, steps_per_epoch

accelerator = Accelerator()
trial = lossaware.trial(lr=1e-3)
images, labels = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
training, testing = torch.utils.data.random_split(data, [1437, 360], torch.Generator().manual_seed(0))

network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
base = torch.optim.AdamW(network.parameters(), lr=trial.lr)
model, optimizer, loader, tests = accelerator.prepare(
    network, base, DataLoader(training, batch_size=64, shuffle=True), DataLoader(testing, batch_size=400)
)
lga = trial.attach(base, steps_per_epoch=steps_per_epoch(accelerator, loader), gamma2="auto")

for epoch in trial.epochs(5):
    for x, y in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(x), y)
            backward(accelerator, lga, loss)
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        right = [accelerator.gather_for_metrics(model(x).argmax(1) == y) for x, y in tests]
    trial.report(epoch, loss=loss, accuracy=torch.cat(right).float().mean())
