"""A training script that ``accelerate launch`` starts in each process; it writes its results to a folder.

Usage: accelerate_script.py FOLDER ROWS ACCUMULATE EVEN_BATCHES JOIN
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from loop import SETTINGS, batches, loss_of, net, record, sgd
from torch.distributed.algorithms.join import Join

from lossaware.recipes.accelerate import attach, backward, steps_per_epoch


def main(folder: Path, rows: int, accumulate: int, even_batches: bool, join: bool) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=accumulate,
        dataloader_config=DataLoaderConfiguration(even_batches=even_batches),
    )
    (data,) = batches(1, size=rows)
    module = net()
    base = sgd(module.parameters())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=2)
    model, optimizer, prepared = accelerator.prepare(module, base, loader)
    settings = {**SETTINGS, "steps_per_epoch": steps_per_epoch(accelerator, prepared)}
    lga = attach(accelerator, optimizer, **settings)
    trajectory = record(base)
    error = None
    sizes = []
    # accelerator.join_uneven_inputs does this on GPUs; on CPUs it does nothing.
    uneven: Any = Join([model], throw_on_early_termination=False) if join else contextlib.nullcontext()
    try:
        with uneven:
            for batch in prepared:
                sizes.append(len(batch[0]))
                with accelerator.accumulate(model):
                    backward(accelerator, lga, loss_of(model, batch))
                    optimizer.step()
                    optimizer.zero_grad()
    except RuntimeError as raised:
        error = str(raised)
    results = {
        "processes": accelerator.num_processes,
        "steps_per_epoch": settings["steps_per_epoch"],
        "sizes": sizes,
        "trajectory": trajectory,
        "state": lga.state_dict(),
        "error": error,
    }
    torch.save(results, folder / f"{accelerator.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "True", sys.argv[5] == "True")
