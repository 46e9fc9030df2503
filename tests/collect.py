"""Collects the tests many times, one after the other, and compares their names.

    python tests/collect.py 100

Each time the hash seed, the time zone, the home and the temporary folder are others, as in `test_collection`, which
compares two. It is run by hand, since a collection takes seconds; the exit code is 1 where names differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from test_collection import begin_to_collect, names

ZONES = ("UTC", "Asia/Tokyo", "America/New_York", "Asia/Kathmandu")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("times", type=int, help="how many times, at least 2")
    times = parser.parse_args().times
    first: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(times):
            tests = names(begin_to_collect(Path(folder) / str(number), 37 * number + 1, ZONES[number % len(ZONES)]))
            first = first or tests
            if tests != first:
                print(f"collection {number + 1} differs:", *sorted(set(tests) ^ set(first))[:20], sep="\n", flush=True)
                return 1
            print(f"{number + 1} of {times} collections agree on {len(tests)} tests", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
