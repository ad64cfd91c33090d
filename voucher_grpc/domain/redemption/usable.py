"""Which passes a charge can be used with, and in which order."""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.conditions import (
    Selectors,
    asks_for_connector,
    connector_selected,
    place_selected,
    time_holds,
)
from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    SessionBundle,
    Terms,
    ValidityStart,
)
from voucher_grpc.domain.passes.state import ClosedAs, Pass, PassWithTerms
from voucher_grpc.domain.places.location import (
    Location,
    VehicleProfile,
    connectors_at,
    fits,
)
from voucher_grpc.ocpi import PlaceKey, folded

_NEVER = datetime.max.replace(tzinfo=UTC)


class Allowed(StrEnum):
    """OCPI 2.2.1, 13.4.2 AllowedType."""

    ALLOWED = "ALLOWED"
    BLOCKED = "BLOCKED"
    EXPIRED = "EXPIRED"
    NO_CREDIT = "NO_CREDIT"
    NOT_ALLOWED = "NOT_ALLOWED"


class Condition(StrEnum):
    """What a pass asks for that is not so."""

    NO_PASS = "NO_PASS"  # noqa: S105
    NOT_PAID = "NOT_PAID"
    NOT_STARTED = "NOT_STARTED"
    ENDED = "ENDED"
    USED_UP = "USED_UP"
    OPERATOR_OR_LOCATION = "OPERATOR_OR_LOCATION"
    CONNECTOR = "CONNECTOR"
    VEHICLE_TYPE = "VEHICLE_TYPE"
    TIME = "TIME"
    NO_TARIFF = "NO_TARIFF"
    TOKEN_BLOCKED = "TOKEN_BLOCKED"  # noqa: S105


class Rejection(NamedTuple):
    """Why a pass cannot be used."""

    allowed: Allowed
    condition: Condition


class ChargePlace(NamedTuple):
    """The place of a charge, and the vehicle as far as it is known."""

    place: PlaceKey
    location: Location
    vehicle: VehicleProfile


def usage_order(passes: Iterable[PassWithTerms]) -> list[PassWithTerms]:
    """The one that ends first comes first; of several that end together the one that leaves
    least to pay, then the oldest. docs/redemption.md has the order."""
    return sorted(passes, key=_order)


def _order(one: PassWithTerms) -> tuple[datetime, int, int, datetime, str]:
    owned = one.owned
    end = owned.period.end_time or owned.period.first_use_before or _NEVER
    return (end, *_rank(one.terms), owned.purchase_time, str(owned.pass_id))


def _rank(terms: Terms) -> tuple[int, int]:
    match terms.benefit:
        case EnergyBundle() | FlatPeriod():
            return 0, 0
        case SessionBundle():
            return 1, 0
        case EnergyPrice(price_micros):
            return 2, price_micros
        case PercentageOff(basis_points):
            return 3, -basis_points


def valid_at(one: PassWithTerms, at: datetime) -> Condition | None:
    """None if the pass is good at the instant of a charge, whenever that is told.

    One that begins with its first use is good from its payment on: an earlier charge that is
    told late is not refused for it.
    """
    owned = one.owned
    if owned.closed_as in (ClosedAs.LAPSED, ClosedAs.CANCELLED) or owned.paid_time is None:
        return Condition.NOT_PAID
    period = owned.period
    start, end = period.start_time, period.end_time
    if one.terms.validity.start is ValidityStart.FIRST_USE:
        start, end = owned.paid_time, end or period.first_use_before
    if start is None or at < start:
        return Condition.NOT_STARTED
    return None if end is None or at < end else Condition.ENDED


def has_credit(owned: Pass) -> bool:
    """Whether anything is left of a bundle; other passes are not used up."""
    left = [n for n in (owned.balance.energy_wh, owned.balance.sessions) if n is not None]
    return not left or any(n > 0 for n in left)


def place_rejection(terms: Terms, where: ChargePlace) -> Condition | None:
    """The selector that the place or the vehicle is outside of."""
    selectors = terms.conditions.selectors
    if not place_selected(selectors, where.place):
        return Condition.OPERATOR_OR_LOCATION
    types = selectors.vehicle_types
    if types and where.vehicle.type not in types:
        return Condition.VEHICLE_TYPE
    if asks_for_connector(selectors) and not permitted_evses(selectors, where):
        return Condition.CONNECTOR
    return None


def permitted_evses(selectors: Selectors, where: ChargePlace) -> list[str]:
    """The EVSEs of the place with a connector that the pass and the vehicle can use."""
    found = []
    for evse in where.location.evses:
        if folded(where.place.evse_uid) not in ("", folded(evse.evse_uid)):
            continue
        at = where.place._replace(evse_uid=evse.evse_uid)
        if any(
            fits(where.vehicle, c)
            and connector_selected(selectors, c.standard, c.power_type, c.max_power_w)
            for c in connectors_at(where.location, at)
        ):
            found.append(evse.evse_uid)
    return found


def rejection(
    one: PassWithTerms, where: ChargePlace, at: datetime, zone: ZoneInfo
) -> Rejection | None:
    """Why a charge that begins at `at` cannot be used with a pass; None if it can.

    What a charge becomes (its energy, power and length) is judged when it is captured.
    """
    validity = valid_at(one, at)
    if validity is Condition.ENDED:
        return Rejection(Allowed.EXPIRED, validity)
    if validity is not None:
        return Rejection(Allowed.NOT_ALLOWED, validity)
    placed = place_rejection(one.terms, where)
    if placed is not None:
        return Rejection(Allowed.NOT_ALLOWED, placed)
    any_of, local = one.terms.conditions.any_of, at.astimezone(zone)
    if any_of and not any(time_holds(r, local) for r in any_of):
        return Rejection(Allowed.NOT_ALLOWED, Condition.TIME)
    return None if has_credit(one.owned) else Rejection(Allowed.NO_CREDIT, Condition.USED_UP)
