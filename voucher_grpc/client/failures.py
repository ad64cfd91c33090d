"""Calls that fail, with the reason and the details that the service gives."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status


@dataclass(eq=False)
class CallFailed(Exception):
    """A call was refused or did not come through.

    `reason` is one of ErrorReason, "" if the service was not reached;
    `violations` maps fields to what is wrong with them; `retry_after_s` is when
    to try again, None if that would not help.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    violations: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"


def call_failed(error: grpc.RpcError) -> CallFailed:
    """What the details of a status say."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return CallFailed(grpc.StatusCode.UNKNOWN, "", str(error))
    failed = CallFailed(error.code(), "", error.details() or "")
    # A deadline that is over just as a refusal arrives leaves the details of the one beside the
    # code of the other (ValueError), and what stands between may put anything there.
    with suppress(ValueError, DecodeError):
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        _take_details(failed, status.details if status is not None else ())
    return failed


def _take_details(failed: CallFailed, packed_details: Iterable[Any]) -> None:
    for packed in packed_details:
        info, bad, retry = details.ErrorInfo(), details.BadRequest(), details.RetryInfo()
        if packed.Unpack(info):
            failed.reason, failed.metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(bad):
            failed.violations = {v.field: v.description for v in bad.field_violations}
        elif packed.Unpack(retry):
            failed.retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
