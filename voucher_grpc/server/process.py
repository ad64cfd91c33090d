"""What a process that does nothing but serve wants of the interpreter and the C library."""

import asyncio
import gc
import itertools
import time

from voucher_grpc.runtime.memory import use_few_arenas


def prepare_process() -> None:
    """For a process that does nothing but serve: few arenas, and cyclic garbage is sought seldom.

    An answer makes hundreds of short-lived tuples, none of them in a cycle. At the
    interpreter's usual thresholds looking through them cost a third of the time;
    what is there when the server starts stays and is not examined again.
    """
    use_few_arenas()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


# Refused and cancelled calls leave reference cycles, 4 MB a minute, which would add up for hours
# at these thresholds. In the soak a collection of the young objects takes 3 to 7 ms, a full one
# 40; a fifth as often they took 16 to 32 ms and up to 100.
_COLLECT_INTERVAL_S = 2.0
_FULL_EVERY = 30
# With a large catalogue a full collection takes long (2,000 tariffs of 500 prices: 350 ms). What
# is left after it is no garbage, and is frozen: later collections pass it over.
_LONG_COLLECTION_S = 0.05


async def collect_now_and_then() -> None:
    for number in itertools.count(1):
        await asyncio.sleep(_COLLECT_INTERVAL_S)
        if number % _FULL_EVERY:
            gc.collect(1)
            continue
        began_s = time.thread_time()
        gc.collect()
        if time.thread_time() - began_s > _LONG_COLLECTION_S:
            gc.freeze()
