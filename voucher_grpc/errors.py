"""The refusals of the service, without a word of gRPC.

The domain and the store raise `Refusal` or `BadInput`; the edge turns a
`Reason` into a status code in one table (`voucher_grpc.edge.wire.status`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """The published reasons; the same list as `ErrorReason` in errors.proto."""

    INVALID_FIELD = "INVALID_FIELD"
    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"  # noqa: S105
    USER_NOT_FOUND = "USER_NOT_FOUND"
    VEHICLE_NOT_FOUND = "VEHICLE_NOT_FOUND"
    VEHICLE_OF_ANOTHER_USER = "VEHICLE_OF_ANOTHER_USER"
    LOCATION_NOT_FOUND = "LOCATION_NOT_FOUND"
    TARIFF_NOT_FOUND = "TARIFF_NOT_FOUND"
    PRODUCT_NOT_FOUND = "PRODUCT_NOT_FOUND"
    PRODUCT_ALREADY_EXISTS = "PRODUCT_ALREADY_EXISTS"
    PRODUCT_RETIRED = "PRODUCT_RETIRED"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    PASS_NOT_FOUND = "PASS_NOT_FOUND"  # noqa: S105
    OFFER_INVALID = "OFFER_INVALID"
    OFFER_EXPIRED = "OFFER_EXPIRED"
    OFFER_WITHDRAWN = "OFFER_WITHDRAWN"
    OFFER_OF_ANOTHER_USER = "OFFER_OF_ANOTHER_USER"
    OFFER_ALREADY_BOUGHT = "OFFER_ALREADY_BOUGHT"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    PAYMENT_MISMATCH = "PAYMENT_MISMATCH"
    PAYMENT_REFERENCE_USED = "PAYMENT_REFERENCE_USED"
    SOLD_OUT = "SOLD_OUT"
    PERSONAL_LIMIT_REACHED = "PERSONAL_LIMIT_REACHED"
    SESSION_CONFLICT = "SESSION_CONFLICT"
    TIME_ZONE_UNKNOWN = "TIME_ZONE_UNKNOWN"
    OVERLOADED = "OVERLOADED"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    VEHICLE_USER_MISMATCH = "VEHICLE_USER_MISMATCH"
    USER_HAS_ACTIVE_PASSES = "USER_HAS_ACTIVE_PASSES"
    EVENT_CURSOR_TOO_OLD = "EVENT_CURSOR_TOO_OLD"
    HOLD_EXPIRED = "HOLD_EXPIRED"
    PASS_ALREADY_PAID = "PASS_ALREADY_PAID"  # noqa: S105
    PASS_CANCELLED = "PASS_CANCELLED"  # noqa: S105
    PASS_EXPIRED = "PASS_EXPIRED"  # noqa: S105
    WITHDRAWAL_CLOSED = "WITHDRAWAL_CLOSED"
    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    CREDENTIALS_EXPIRED = "CREDENTIALS_EXPIRED"
    ACCESS_DENIED = "ACCESS_DENIED"
    RATE_LIMITED = "RATE_LIMITED"
    OUTDATED = "OUTDATED"
    CHARGE_NOT_FOUND = "CHARGE_NOT_FOUND"
    CHARGE_AT_ANOTHER_PLACE = "CHARGE_AT_ANOTHER_PLACE"
    CHARGE_CAPTURED = "CHARGE_CAPTURED"
    CDR_CONFLICT = "CDR_CONFLICT"
    CDR_NOT_FOUND = "CDR_NOT_FOUND"
    SESSION_CAPTURED = "SESSION_CAPTURED"
    PASS_IN_USE = "PASS_IN_USE"  # noqa: S105
    TOKEN_NOT_FOUND = "TOKEN_NOT_FOUND"  # noqa: S105
    TOKEN_OF_ANOTHER_USER = "TOKEN_OF_ANOTHER_USER"  # noqa: S105


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field: its path in the request and the bound it broke."""

    field: str
    description: str


class StartError(Exception):
    """The server cannot start; the message is one line for an operator."""


class Refusal(Exception):
    """A call is refused.

    `message` and `metadata` reach the caller, so they hold nothing internal.
    `retry_after_s` is set where trying again may help.
    """

    def __init__(
        self, reason: Reason, message: str, *, retry_after_s: float | None = None, **metadata: str
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.metadata = metadata
        self.violations: tuple[FieldViolation, ...] = ()


class BadInput(Refusal):
    """Fields of a request are missing or out of bounds."""

    def __init__(
        self, violations: Sequence[FieldViolation], reason: Reason = Reason.INVALID_FIELD
    ) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(reason, f"{first.field}: {first.description}{more}")
        self.violations = tuple(violations)


def bad_field(field: str, description: str) -> BadInput:
    """The refusal of one field."""
    return BadInput([FieldViolation(field, description)])


class StoreUnavailable(Refusal):
    """The database cannot be reached, is read-only or too slow."""

    def __init__(
        self, message: str = "the database is not available", retry_after_s: float = 1.0
    ) -> None:
        super().__init__(Reason.STORE_UNAVAILABLE, message, retry_after_s=retry_after_s)


class Overloaded(Refusal):
    """A bounded queue is full."""

    def __init__(self, what: str, bound: int, retry_after_s: float = 0.2) -> None:
        super().__init__(
            Reason.OVERLOADED, f"{what}: {bound} are waiting already", retry_after_s=retry_after_s
        )
