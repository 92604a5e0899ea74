"""200 devices on which everything happens, rotated for real and watched by the program in a process of its own.

    pytest -n 0 -s tests/benchmarks/bench_fleet.py

tests/rotation/test_whole_fleet.py has the same with one device of each kind.
"""

import asyncio
import time

from tests.rotation.test_whole_fleet import check_everything, see_it_through
from tests.whole_fleet import ROLES

DEVICES = 200


def test_fleet_of_200(tmp_path):
    counts = dict.fromkeys(ROLES, 5)
    counts["well"] = DEVICES - sum(counts.values())
    began = time.monotonic()
    seen = asyncio.run(see_it_through(tmp_path / "mock", counts, check_in=2.0, interval=0.5, live=True))
    check_everything(*seen)
    _, watched, _, text, _, _ = seen
    print(f"\n{DEVICES} devices in {time.monotonic() - began:.0f} s, exit code {watched.code}")
    print(watched.err.strip())
    print("\n".join(text.out.splitlines()[:3]))
