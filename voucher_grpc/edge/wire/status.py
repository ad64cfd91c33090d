"""The one table from reasons to gRPC status codes, and statuses with their details.

docs/errors.md is generated from `CODES` and the comments of ErrorReason.
"""

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from voucher_grpc.errors import Reason, Refusal

DOMAIN = "voucher-grpc"
MAX_FIELD_VIOLATIONS = 50

_Code = grpc.StatusCode
CODES: dict[Reason, grpc.StatusCode] = {
    Reason.INVALID_FIELD: _Code.INVALID_ARGUMENT,
    Reason.MALFORMED_MESSAGE: _Code.INVALID_ARGUMENT,
    Reason.INVALID_PAGE_TOKEN: _Code.INVALID_ARGUMENT,
    Reason.USER_NOT_FOUND: _Code.NOT_FOUND,
    Reason.VEHICLE_NOT_FOUND: _Code.NOT_FOUND,
    Reason.VEHICLE_OF_ANOTHER_USER: _Code.ALREADY_EXISTS,
    Reason.LOCATION_NOT_FOUND: _Code.NOT_FOUND,
    Reason.TARIFF_NOT_FOUND: _Code.NOT_FOUND,
    Reason.PRODUCT_NOT_FOUND: _Code.NOT_FOUND,
    Reason.PRODUCT_ALREADY_EXISTS: _Code.ALREADY_EXISTS,
    Reason.PRODUCT_RETIRED: _Code.FAILED_PRECONDITION,
    Reason.ETAG_MISMATCH: _Code.ABORTED,
    Reason.PASS_NOT_FOUND: _Code.NOT_FOUND,
    Reason.OFFER_INVALID: _Code.INVALID_ARGUMENT,
    Reason.OFFER_EXPIRED: _Code.FAILED_PRECONDITION,
    Reason.OFFER_WITHDRAWN: _Code.FAILED_PRECONDITION,
    Reason.OFFER_OF_ANOTHER_USER: _Code.PERMISSION_DENIED,
    Reason.OFFER_ALREADY_BOUGHT: _Code.ALREADY_EXISTS,
    Reason.REQUEST_ID_REUSED: _Code.ALREADY_EXISTS,
    Reason.PAYMENT_MISMATCH: _Code.FAILED_PRECONDITION,
    Reason.PAYMENT_REFERENCE_USED: _Code.FAILED_PRECONDITION,
    Reason.SOLD_OUT: _Code.FAILED_PRECONDITION,
    Reason.PERSONAL_LIMIT_REACHED: _Code.FAILED_PRECONDITION,
    Reason.SESSION_CONFLICT: _Code.ALREADY_EXISTS,
    Reason.TIME_ZONE_UNKNOWN: _Code.INVALID_ARGUMENT,
    Reason.OVERLOADED: _Code.RESOURCE_EXHAUSTED,
    Reason.STORE_UNAVAILABLE: _Code.UNAVAILABLE,
    Reason.SHUTTING_DOWN: _Code.UNAVAILABLE,
    Reason.INTERNAL: _Code.INTERNAL,
    Reason.DEADLINE_EXCEEDED: _Code.DEADLINE_EXCEEDED,
    Reason.VEHICLE_USER_MISMATCH: _Code.FAILED_PRECONDITION,
    Reason.USER_HAS_ACTIVE_PASSES: _Code.FAILED_PRECONDITION,
    Reason.EVENT_CURSOR_TOO_OLD: _Code.OUT_OF_RANGE,
    Reason.HOLD_EXPIRED: _Code.FAILED_PRECONDITION,
    Reason.PASS_ALREADY_PAID: _Code.ALREADY_EXISTS,
    Reason.PASS_CANCELLED: _Code.FAILED_PRECONDITION,
    Reason.PASS_EXPIRED: _Code.FAILED_PRECONDITION,
    Reason.WITHDRAWAL_CLOSED: _Code.FAILED_PRECONDITION,
    Reason.CREDENTIALS_MISSING: _Code.UNAUTHENTICATED,
    Reason.CREDENTIALS_INVALID: _Code.UNAUTHENTICATED,
    Reason.CREDENTIALS_EXPIRED: _Code.UNAUTHENTICATED,
    Reason.ACCESS_DENIED: _Code.PERMISSION_DENIED,
    Reason.RATE_LIMITED: _Code.RESOURCE_EXHAUSTED,
    Reason.OUTDATED: _Code.FAILED_PRECONDITION,
    Reason.CHARGE_NOT_FOUND: _Code.NOT_FOUND,
    Reason.CHARGE_AT_ANOTHER_PLACE: _Code.FAILED_PRECONDITION,
    Reason.CHARGE_CAPTURED: _Code.FAILED_PRECONDITION,
    Reason.CDR_CONFLICT: _Code.ALREADY_EXISTS,
    Reason.CDR_NOT_FOUND: _Code.NOT_FOUND,
    Reason.SESSION_CAPTURED: _Code.ALREADY_EXISTS,
    Reason.PASS_IN_USE: _Code.FAILED_PRECONDITION,
    Reason.TOKEN_NOT_FOUND: _Code.NOT_FOUND,
    Reason.TOKEN_OF_ANOTHER_USER: _Code.ALREADY_EXISTS,
}


def code_of(refusal: Refusal) -> grpc.StatusCode:
    """The status code of a refusal."""
    return CODES[refusal.reason]


def status_of(refusal: Refusal) -> Status:
    """A refusal as google.rpc.Status: ErrorInfo, and BadRequest or RetryInfo where they apply."""
    found = [details.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=refusal.metadata)]
    packed: list[Any] = []
    if refusal.violations:
        found.append(
            details.BadRequest(
                field_violations=[
                    details.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in refusal.violations[:MAX_FIELD_VIOLATIONS]
                ]
            )
        )
    if refusal.retry_after_s is not None:
        retry = details.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(refusal.retry_after_s * 1000))
        found.append(retry)
    for message in found:
        packed.append(Any())
        packed[-1].Pack(message)
    code: int = code_of(refusal).value[0]
    return Status(code=code, message=refusal.message, details=packed)
