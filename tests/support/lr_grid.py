"""A study over learning rates, in which some optimizers have their own rate."""


def lr_grid(tasks: str, optimizers: str, *, epochs: int, seeds: int, measure: str = "accuracy") -> str:
    """The text of the study, with these lines in its axes."""
    return f"""
title = "Small"
rows = ["task", "optimizer"]
columns = ["lr"]

[base]
epochs = {epochs}
batch_size = 200
seeds = {seeds}

[measure]
set = "test"
name = "{measure}"

[axes.task]
{tasks}

[axes.optimizer]
{optimizers}

[axes.lr]
1e-3 = {{ lr = 1e-3 }}
1e-2 = {{ lr = 1e-2 }}
own = {{}}
"""
