"""Few cases of many: a set in which every two values that go together meet at least once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any


def pairwise(factors: Mapping[str, Sequence[Any]], allowed: Callable[..., bool]) -> list[dict[str, Any]]:
    """Cases in which all pairs of values occur, greedily chosen and always the same.

    Args:
        factors: The values of each factor.
        allowed: Whether a whole case, given by keywords, can be had; pairs that no such case has are left out.
    """
    names = sorted(factors, key=lambda name: -len(factors[name]))  # so that most pairs come early
    met: set[tuple[Any, ...]] = set()
    cases: list[dict[str, Any]] = []

    def pairs(case: Mapping[str, Any]) -> set[tuple[Any, ...]]:
        return {(a, case[a], b, case[b]) for a, b in combinations(names, 2)}

    for a, b in combinations(names, 2):
        others = [name for name in names if name not in (a, b)]
        for first, second in product(factors[a], factors[b]):
            if (a, first, b, second) in met:
                continue
            candidates = (
                {a: first, b: second, **dict(zip(others, values, strict=True))}
                for values in product(*(factors[name] for name in others))
            )
            fitting = [(len(pairs(case) - met), case) for case in candidates if allowed(**case)]
            if fitting:
                most = max(count for count, _ in fitting)
                equals = [case for count, case in fitting if count == most]
                best = equals[len(cases) % len(equals)]  # so that all values are equally frequent
                met |= pairs(best)
                cases.append({name: best[name] for name in factors})
    return cases
