"""CPU that a device of `mock init` and of `mock clone` costs, at n and 10 n, and requests that a clone makes.

pytest -n 0 -s tests/benchmarks/bench_mock_init.py
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from fioctl_rotate.ops import mock
from fioctl_rotate.ops.clone import clone
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.ops.mock_making import in_directory

SIZES = (200, 2000)
AT_MOST = 2.0  # milliseconds of CPU a device


def cpu_ms(work: Any) -> float:
    began = time.process_time()
    asyncio.run(work)
    return 1000 * (time.process_time() - began)


def test_mock_init_and_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = 0
    real = httpx.ASGITransport.handle_async_request

    async def counted(transport: Any, request: Any) -> Any:
        nonlocal requests
        requests += 1
        return await real(transport, request)

    async def cloned(size: int) -> None:
        async with open_api(in_directory(tmp_path / f"{size}", "acme")) as api:
            await clone(api, tmp_path / f"copy-{size}", addresses=mock.Addresses(0, 0, 0))

    print()
    for size in SIZES:
        made = mock.init(
            tmp_path / f"{size}", "acme", addresses=mock.Addresses(0, 0, 0), group="field", devices=size
        )
        init_ms = cpu_ms(made) / size
        with monkeypatch.context() as patched:
            patched.setattr(httpx.ASGITransport, "handle_async_request", counted)
            requests = 0
            clone_ms = cpu_ms(cloned(size)) / size
        print(
            f"{size:5} devices: mock init {init_ms:.2f} ms each, mock clone {clone_ms:.2f} ms each,"
            f" {requests / size:.2f} requests each"
        )
    assert init_ms <= AT_MOST
    assert requests <= 2 * size + 30
