"""DeepSpeed's engine without ZeRO, compared with a plain loop. DeepSpeed is not in an extra, as it needs a compiler."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import importlib, os
import deepspeed, torch
from lossaware import LGA

# Its shared-memory all-reduce would be compiled for a minute; the one of gloo does the same.
importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None


def train(with_engine, gamma2):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    engine = None
    if with_engine:
        config = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
        engine, _, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    lga = LGA(optimizer, steps_per_epoch=4, gamma2=gamma2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        for _ in range(2):
            inputs = torch.randn(4, 8, generator=generator)
            targets = torch.randint(2, (4,), generator=generator)
            loss = torch.nn.functional.cross_entropy((engine or model)(inputs), targets)
            lga.observe(loss)
            if engine:
                engine.backward(loss)
                engine.step()
            else:
                (loss / 2).backward()
        if not engine:
            optimizer.step()
            optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), lga.status


for gamma2 in (0.0, 1e-5):
    (plain, plain_status), (engine, status) = train(False, gamma2), train(True, gamma2)
    torch.testing.assert_close(engine, plain, rtol=1e-5, atol=1e-6)
    assert (status.steps, status.open_share) == (plain_status.steps, plain_status.open_share), (status, plain_status)
moved = (train(True, 1e-5)[0] - train(True, 0.0)[0]).abs().max()
assert moved > 1e-5, moved
"""


def test_an_engine_is_a_plain_loop() -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed, and no extra brings it: pip install deepspeed")
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | ranks | {"DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
