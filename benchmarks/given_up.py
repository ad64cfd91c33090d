"""What grpc.aio itself keeps of each call that its caller gives up, measured on a bare server.

grpcio up to 1.85.1 at least (https://github.com/grpc/grpc/issues/43360) does not free the array
of a batch of operations that fails or whose task is cancelled: 80 bytes for each operation, and
what malloc adds. A server that is busy when callers give up loses one array a call. The soak
takes that off from what the service is blamed for; it falls away here when it does there.
"""

import asyncio
import ctypes
import gc
import random
import time
from typing import Any

import grpc
import uvloop

from benchmarks.processes import Child, Pipe, RunFailed

_SERVICE = "benchmarks.Bare"
_ROUNDS, _CALLS, _AT_ONCE = 300, 20, 4
# As busy as the service is by a call, so that callers give up before their turn.
_WORK_S = 0.002


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc, mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def kept_by_call_bytes() -> float:
    """Bytes of the C heap that a bare server has lost for each call given up. Raises RunFailed."""
    with Child("bare", _server) as server:
        port = server.receive()
        asyncio.run(_give_up(port))  # what is made once
        before = server.ask("used")
        given_up = asyncio.run(_give_up(port))
        time.sleep(1)
        used = float(server.ask("used") - before)
    if not given_up:
        raise RunFailed("no call was given up")
    return round(max(0.0, used / given_up), 1)


def _server(pipe: Pipe) -> None:
    uvloop.run(_serve(pipe))


async def _serve(pipe: Pipe) -> None:
    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Call": grpc.unary_unary_rpc_method_handler(_work)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    heap: Any = ctypes.CDLL(None).mallinfo2
    heap.restype = _Heap
    try:
        while True:
            await asyncio.to_thread(pipe.recv)
            gc.collect()
            pipe.send(heap().uordblks)
    except EOFError:
        await server.stop(None)


async def _work(request: bytes, _context: Any) -> bytes:
    time.sleep(_WORK_S)  # noqa: ASYNC251 - nothing else shall run
    return request


async def _give_up(port: int) -> int:
    """Send calls and cancel them at any moment; how many were not answered by then."""
    chance = random.Random(1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_unary(f"/{_SERVICE}/Call")

        async def one() -> int:
            calls = [method(bytes(300), timeout=5) for _ in range(_CALLS)]
            return await cancel_soon(calls, chance)

        async def again() -> int:
            return sum([await one() for _ in range(_ROUNDS // _AT_ONCE)])

        return sum(await asyncio.gather(*(again() for _ in range(_AT_ONCE))))


async def cancel_soon(calls: list[Any], chance: random.Random) -> int:
    """Cancel calls within 50 ms; how many were not answered by then."""
    await asyncio.sleep(chance.uniform(0, 0.05))
    given_up = len([call for call in calls if call.cancel()])
    await asyncio.gather(*calls, return_exceptions=True)
    return given_up
