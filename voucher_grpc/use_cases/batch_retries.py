"""What is tried again when a batch that writes has failed."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from voucher_grpc.errors import StoreUnavailable
from voucher_grpc.store.driver import CommitUnclear, RolledBack

Request = TypeVar("Request")
Result = TypeVar("Result")
log = structlog.get_logger(__name__)


async def run_with_retries(
    requests: Sequence[Request],
    run: Callable[[Sequence[Request]], Awaitable[Sequence[Result | BaseException]]],
) -> Sequence[Result | BaseException]:
    """The result or the refusal of each request; `run` writes them in one transaction.

    If it is not known whether a batch was committed it is tried once more: under the
    users' locks, which wait for the first try to end, each key finds what became of
    it. So is one that Postgres has ended because of a deadlock: nothing of it was written.
    If a batch fails for any other reason than the database's absence, its halves are tried,
    and so on: a request that makes a batch fail does not fail the others, and delays them once.
    """
    try:
        try:
            return await run(requests)
        except (CommitUnclear, RolledBack) as error:
            log.warning("batch_again", size=len(requests), error=type(error).__name__)
            return await run(requests)
    except StoreUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - its caller gets it
        if len(requests) == 1:
            return [error]
        log.warning("batch_failed", size=len(requests), error=type(error).__name__)
    middle = len(requests) // 2
    return [
        *await run_with_retries(requests[:middle], run),
        *await run_with_retries(requests[middle:], run),
    ]
