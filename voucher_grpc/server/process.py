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
    what is there when the server starts stays and is not looked at again.
    """
    use_few_arenas()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


# What refusals and cancelled calls leave in cycles would else add up for hours before the collector
# comes by: 4 MB a minute. In the soak a look at the young objects takes 3 to 7 ms, one at all 40;
# the young ones looked at a fifth as often took 16 to 32 ms, and all of them up to 100.
_COLLECT_INTERVAL_S = 2.0
_FULL_EVERY = 30
# A large catalogue makes a look at all objects take long (2,000 tariffs of 500 prices: 350 ms).
# What is left after such a look is no garbage, and later looks pass it over.
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
