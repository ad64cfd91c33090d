"""What a client makes of the end of a call."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import RESOURCE_EXHAUSTED
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from voucher_grpc.client import call_failed


def ended(code: grpc.StatusCode, message: str, details: bytes) -> grpc.aio.AioRpcError:
    """A call's end, with the details that its trailing metadata hold."""
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", details))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, message)


def refusal(*details: ErrorInfo | RetryInfo) -> bytes:
    """The details of a refusal because of overload."""
    status = Status(code=RESOURCE_EXHAUSTED, message="too much")
    for detail in details:
        status.details.add().Pack(detail)
    packed: bytes = status.SerializeToString()
    return packed


OVERLOADED = ErrorInfo(reason="OVERLOADED", metadata={"request_id": "call-1"})


def test_the_details_of_a_refusal_are_told() -> None:
    """Reason, metadata, and when to try again."""
    retry = RetryInfo()
    retry.retry_delay.FromMilliseconds(1_500)
    details = refusal(OVERLOADED, retry)
    failed = call_failed(ended(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much", details))
    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 1.5, {"request_id": "call-1"}) == (
        failed.code,
        failed.reason,
        failed.retry_after_s,
        failed.metadata,
    )


@pytest.mark.parametrize(
    "details",
    [
        pytest.param(refusal(OVERLOADED), id="of a refusal that came as the deadline passed"),
        pytest.param(b"\xff", id="no message"),
        pytest.param(
            Status(
                code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
                message="Deadline Exceeded",
                details=[Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")],
            ).SerializeToString(),
            id="a detail that is no message",
        ),
    ],
)
def test_details_that_do_not_belong_to_the_end_of_a_call_are_not_told(details: bytes) -> None:
    """The code is that of the call, and the caller hears of nothing else."""
    failed = call_failed(ended(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", details))
    assert (grpc.StatusCode.DEADLINE_EXCEEDED, "", None, {}) == (
        failed.code,
        failed.reason,
        failed.retry_after_s,
        failed.metadata,
    )
