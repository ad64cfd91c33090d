"""The state of a pass at an instant."""

from datetime import datetime
from enum import StrEnum

from voucher_grpc.catalogue.product import ValidityPeriod


class PassState(StrEnum):
    """Where a pass is in its life."""

    NOT_STARTED = "NOT_STARTED"
    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"


def pass_state(period: ValidityPeriod, at: datetime) -> PassState:
    """The state at `at`, whether or not any sweep has run: start inclusive, end exclusive."""
    if period.start_time is None or period.end_time is None:
        unused = period.first_use_before is not None and at >= period.first_use_before
        return PassState.EXPIRED if unused else PassState.NOT_STARTED
    if at < period.start_time:
        return PassState.NOT_STARTED
    return PassState.ACTIVE if at < period.end_time else PassState.EXPIRED
