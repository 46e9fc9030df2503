"""The table of option sets is that of torch's test database."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from option_sets import FOREACH, FUSED, OPTION_SETS, SPARSE_ONLY

# In a separate process: the import freezes torch's global flags.
_READ = """
import json
try:
    from torch.testing._internal.common_optimizers import optim_db
except ImportError as error:
    print(json.dumps(str(error)))
else:
    print(json.dumps([
        [
            info.optim_cls.__name__,
            [repr(one.kwargs) for one in info.optim_inputs_func(device="cpu")],
            "foreach" in info.supported_impls,
            "cpu" in info.supports_fused_on,
            info.only_supports_sparse_grads,
        ]
        for info in optim_db
    ]))
"""


def test_it_is_the_databases() -> None:
    result = subprocess.run([sys.executable, "-c", _READ], capture_output=True, text=True, check=True)
    database = json.loads(result.stdout.splitlines()[-1])
    if isinstance(database, str):
        pytest.skip(f"this torch has no torch.testing._internal.common_optimizers that can be imported: {database}")
    version = torch.__version__
    assert {name for name, *_ in database} <= set(OPTION_SETS), f"torch {version} has further optimizers"
    for name, options, has_foreach, has_fused, is_sparse in database:
        missing = set(options) - {repr(one) for one in OPTION_SETS[name].values()}
        assert not missing, f"torch {version} has further option sets of {name}"
        assert has_foreach == (name in FOREACH)
        assert has_fused == (name in FUSED)
        assert is_sparse == (name in SPARSE_ONLY)
