"""Memory that is free again goes back to the operating system."""

import ctypes
import subprocess
import sys

import pytest

# 200 MB in small parts, all freed but the last one, which keeps the heap's end in use.
PROGRAM = """
import asyncio, ctypes, os
from voucher_grpc.runtime import memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
memory._INTERVAL_S = 0.01
resident = lambda: memory.resident_bytes(os.getpid())


async def main():
    trimming = asyncio.create_task(memory.trim_memory())
    await asyncio.sleep(0)
    parts = [libc.malloc(1000) for _ in range(200_000)]
    for part in parts:
        ctypes.memset(part, 1, 1000)
    del part
    for part in parts[:-1]:
        libc.free(part)
    freed = resident()
    while resident() > freed - 150_000_000:
        await asyncio.sleep(0.01)
    trimming.cancel()
    print("given back")


asyncio.run(main())
"""


def test_freed_memory_is_given_back() -> None:
    """Else a server stays as large as the worst attack made it."""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library has no malloc_trim")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=300
    )
    assert "given back\n" == done.stdout
