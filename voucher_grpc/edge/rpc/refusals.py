"""How a call that is refused ends: counted, logged, and with a status that has its reason."""

import asyncio
from functools import lru_cache

import grpc
import structlog
from grpc_status import rpc_status

from voucher_grpc.access.principal import ANONYMOUS, caller
from voucher_grpc.edge.wire.status import status_of
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.telemetry.calls import REQUEST_ID_HEADER, Context
from voucher_grpc.telemetry.logs import LogRate, not_logged
from voucher_grpc.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

# Refusals that come in floods: a line for each would cost more than the refusing.
_FLOODS = frozenset(
    {
        Reason.OVERLOADED,
        Reason.RATE_LIMITED,
        Reason.STORE_UNAVAILABLE,
        Reason.CREDENTIALS_MISSING,
        Reason.CREDENTIALS_INVALID,
        Reason.CREDENTIALS_EXPIRED,
        Reason.ACCESS_DENIED,
    }
)


class Refusals:
    """Refuses calls of a method."""

    def __init__(self, method: str, metrics: Metrics, log_rate: LogRate) -> None:
        self._method = method
        self._refusals = metrics.refusals
        self._log_rate = log_rate

    async def refuse(self, refusal: Refusal, request_id: str, context: Context) -> None:
        """Count it, write it to the log unless it is one of a flood, and abort the call."""
        self._refusals.labels(self._method, refusal.reason).inc()
        held_back = self._log_rate.passes() if refusal.reason in _FLOODS else 0
        if held_back is not None:
            log.info(
                "refused",
                method=self._method,
                reason=refusal.reason,
                message=refusal.message,
                request_id=request_id,
                **_caller_name(),
                **not_logged(held_back),
            )
        await _abort(refusal, request_id, context)

    async def fail(self, error: Exception, request_id: str, context: Context) -> None:
        """An internal error: logged in full, and reported without any detail."""
        log.error("call_failed", method=self._method, request_id=request_id, exc_info=error)
        self._refusals.labels(self._method, Reason.INTERNAL).inc()
        refusal = Refusal(
            Reason.INTERNAL, "a fault of the service; it has been logged", request_id=request_id
        )
        await _abort(refusal, request_id, context)


def _caller_name() -> dict[str, str]:
    """Who calls, where credentials say it."""
    return {} if caller() is ANONYMOUS else {"caller": caller().name}


async def _abort(refusal: Refusal, request_id: str, context: Context) -> None:
    if refusal.reason is Reason.OVERLOADED:
        status = _overloaded(refusal.message, round(refusal.retry_after_s or 0.0, 2))
    else:
        status = rpc_status.to_status(status_of(refusal))
    trailing = (*status.trailing_metadata, (REQUEST_ID_HEADER, request_id))
    try:
        await context.abort(status.code, status.details, trailing)
    except grpc.aio.InternalError:
        # The caller has gone.
        raise asyncio.CancelledError from None


@lru_cache(maxsize=2_048)
def _overloaded(message: str, retry_after_s: float) -> grpc.Status:
    """The status is kept: of all refusals this one must be cheap, and there are few of them."""
    refusal = Refusal(Reason.OVERLOADED, message, retry_after_s=retry_after_s)
    return rpc_status.to_status(status_of(refusal))
