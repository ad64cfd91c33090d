"""What a server does by itself, beside its callers."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from voucher_grpc.errors import StoreUnavailable

log = structlog.get_logger(__name__)


async def keep_working(
    name: str, step: Callable[[], Awaitable[bool]], pause_s: Callable[[], float]
) -> None:
    """Step after step until cancelled; whatever fails is tried again.

    A step says whether there is more to do at once; else, and after a failure, there
    is a pause.
    """
    while True:
        try:
            more = await step()
        except StoreUnavailable:  # logged where it was translated
            more = False
        except Exception:
            log.exception("background_failed", work=name)
            more = False
        if not more:
            await asyncio.sleep(pause_s())
