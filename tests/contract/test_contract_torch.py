"""LGA over every option set of torch's optimizers, dtypes, layouts of memory and ways of computing."""

from __future__ import annotations

import pytest
from cases import BASES, EAGER_PATHS, Case, every, reduced
from checks import CHECKS, checks_of
from runs import way


@pytest.mark.parametrize(("case", "check"), [(case, check) for case in reduced() for check in checks_of(case)], ids=str)
def test_pairs(case: Case, check: str) -> None:
    """A set of cases in which every two values meet."""
    with way(case.path) as kernels:
        CHECKS[check](case, kernels)


@pytest.mark.contract
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", EAGER_PATHS)
@pytest.mark.parametrize("base", BASES, ids="-".join)
def test_all(base: tuple[str, str], path: str) -> None:
    """All cases."""
    failed = []
    with way(path) as kernels:
        for case in every(base, path):
            for name in checks_of(case):
                try:
                    CHECKS[name](case, kernels)
                except Exception as error:
                    failed.append(f"{case} {name}: {type(error).__name__}: {str(error)[:300]}")
    assert not failed, f"{len(failed)}:\n" + "\n".join(failed)
