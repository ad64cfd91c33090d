"""Conditions of use: OCPI TariffRestrictions and selectors.

Rules (OCPI 2.2.1, 11.4.6 TariffRestrictions; decisions in docs/decisions.md):

- Times and dates are wall-clock time of the location's IANA zone. An hour that
  a daylight-saving change repeats is inside a window both times; one that is
  skipped never occurs.
- `start_time` is inclusive, `end_time` exclusive. An end before the start wraps
  to the next day; 00:00 as an end is the end of the day.
- A wrapping window belongs to the day on which it starts: `day_of_week` is
  judged by that day, `start_date` and `end_date` by the instant's own date.
- Lower bounds are inclusive, upper bounds exclusive.
"""

from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from voucher_grpc.ocpi import DAYS, Day, PlaceKey, PowerType, VehicleType, folded

MINUTES_PER_DAY = 1440
HOURS_PER_WEEK = 168
MINUTES_PER_WEEK = 7 * MINUTES_PER_DAY


@dataclass(frozen=True, slots=True)
class Restrictions:
    """OCPI TariffRestrictions, all set ones joined by AND.

    Times are minutes after local midnight: `start_minute` 0 to 1439, inclusive,
    `end_minute` 0 to 1439, exclusive, 0 meaning the end of the day. Energy in
    Wh, current in mA, power in W, durations in s; bounds as in the module.
    """

    start_minute: int | None = None
    end_minute: int | None = None
    start_date: date | None = None
    end_date: date | None = None
    day_of_week: frozenset[Day] = frozenset()
    min_energy_wh: int | None = None
    max_energy_wh: int | None = None
    min_current_ma: int | None = None
    max_current_ma: int | None = None
    min_power_w: int | None = None
    max_power_w: int | None = None
    min_duration_s: int | None = None
    max_duration_s: int | None = None


@dataclass(frozen=True, slots=True)
class ChargeState:
    """What a charge has reached at an instant; None where it is not known.

    A bound on something that is not known does not hold.
    """

    energy_wh: int | None = 0
    duration_s: int | None = 0
    power_w: int | None = None
    current_ma: int | None = None


@dataclass(frozen=True, slots=True)
class Selectors:
    """Where and with what a pass is good; empty means everything.

    `parties` are (country_code, party_id) with "" for every operator of a
    country; `locations` match what they contain.
    """

    parties: tuple[tuple[str, str], ...] = ()
    locations: tuple[PlaceKey, ...] = ()
    connector_standards: frozenset[str] = frozenset()
    power_types: frozenset[PowerType] = frozenset()
    min_connector_power_w: int | None = None
    max_connector_power_w: int | None = None
    vehicle_types: frozenset[VehicleType] = frozenset()


@dataclass(frozen=True, slots=True)
class UsageConditions:
    """Good while any of `any_of` holds (always, if there is none) and the selectors match."""

    any_of: tuple[Restrictions, ...] = ()
    selectors: Selectors = field(default_factory=Selectors)


def _window(restrictions: Restrictions) -> tuple[int, int]:
    """(start, end) in minutes; end may exceed a day where the window wraps."""
    start = restrictions.start_minute or 0
    end = restrictions.end_minute or MINUTES_PER_DAY
    return (start, end) if end > start else (start, end + MINUTES_PER_DAY)


def _inside(value: int | None, low: int | None, high: int | None) -> bool:
    if low is None and high is None:
        return True
    if value is None:
        return False
    return (low is None or value >= low) and (high is None or value < high)


def _day_allowed(days: frozenset[Day], weekday: int) -> bool:
    return not days or DAYS[weekday % 7] in days


def time_holds(restrictions: Restrictions, local: datetime) -> bool:
    """Whether the times, dates and days hold at `local`, a wall-clock time."""
    today = local.date()
    if restrictions.start_date is not None and today < restrictions.start_date:
        return False
    if restrictions.end_date is not None and today >= restrictions.end_date:
        return False
    start, end = _window(restrictions)
    minute = local.hour * 60 + local.minute
    weekday = local.weekday()
    if start <= minute < end and _day_allowed(restrictions.day_of_week, weekday):
        return True
    # The part of a wrapping window after midnight belongs to yesterday's window.
    return start <= minute + MINUTES_PER_DAY < end and _day_allowed(
        restrictions.day_of_week, weekday - 1
    )


def restrictions_hold(
    restrictions: Restrictions, at: datetime, zone: ZoneInfo, charge: ChargeState
) -> bool:
    """Whether all restrictions hold at the instant `at` (aware) in a charge's state."""
    return (
        time_holds(restrictions, at.astimezone(zone))
        and _inside(charge.energy_wh, restrictions.min_energy_wh, restrictions.max_energy_wh)
        and _inside(charge.current_ma, restrictions.min_current_ma, restrictions.max_current_ma)
        and _inside(charge.power_w, restrictions.min_power_w, restrictions.max_power_w)
        and _inside(charge.duration_s, restrictions.min_duration_s, restrictions.max_duration_s)
    )


def conditions_hold(
    conditions: UsageConditions, at: datetime, zone: ZoneInfo, charge: ChargeState
) -> bool:
    """Whether at least one of the alternatives holds; selectors are judged apart."""
    if not conditions.any_of:
        return True
    return any(restrictions_hold(r, at, zone, charge) for r in conditions.any_of)


def place_contains(outer: PlaceKey, inner: PlaceKey) -> bool:
    """Whether `inner` is `outer` or a part of it."""
    return (
        outer.country_code == inner.country_code
        and outer.party_id == inner.party_id
        and folded(outer.location_id) == folded(inner.location_id)
        and folded(outer.evse_uid) in ("", folded(inner.evse_uid))
        and folded(outer.connector_id) in ("", folded(inner.connector_id))
    )


def place_selected(selectors: Selectors, place: PlaceKey) -> bool:
    """Whether operator and location selectors allow the place."""
    if selectors.parties and not any(
        country == place.country_code and party in ("", place.party_id)
        for country, party in selectors.parties
    ):
        return False
    return not selectors.locations or any(
        place_contains(allowed, place) for allowed in selectors.locations
    )


def connector_selected(
    selectors: Selectors,
    standard: str | None,
    power_type: PowerType | None,
    max_power_w: int | None,
) -> bool:
    """Whether the connector selectors allow a connector; None is a thing not known.

    A selector on something that is not known does not match.
    """
    if selectors.connector_standards and standard not in selectors.connector_standards:
        return False
    if selectors.power_types and power_type not in selectors.power_types:
        return False
    low, high = selectors.min_connector_power_w, selectors.max_connector_power_w
    if low is None and high is None:
        return True
    if not max_power_w:
        return False
    return (low is None or max_power_w >= low) and (high is None or max_power_w <= high)


def asks_for_connector(selectors: Selectors) -> bool:
    """Whether the selectors say anything about connectors."""
    return bool(
        selectors.connector_standards
        or selectors.power_types
        or selectors.min_connector_power_w is not None
        or selectors.max_connector_power_w is not None
    )


def _week_intervals(restrictions: Restrictions) -> list[tuple[int, int]]:
    """The minutes of the local week that the times and days cover, as [first, last)."""
    start, end = _window(restrictions)
    intervals = []
    for day in range(7):
        if _day_allowed(restrictions.day_of_week, day):
            first, last = day * MINUTES_PER_DAY + start, day * MINUTES_PER_DAY + end
            intervals.append((first, min(last, MINUTES_PER_WEEK)))
            if last > MINUTES_PER_WEEK:
                intervals.append((0, last - MINUTES_PER_WEEK))
    return intervals


@lru_cache(maxsize=65_536)
def hour_of_week_shares(any_of: tuple[Restrictions, ...]) -> tuple[float, ...]:
    """How much of each local hour of the week is inside any of the windows, 0 to 1.

    168 numbers from Monday 00:00; no restrictions cover all of it. Only times
    and days are seen: the caller cuts the period by the dates first.
    """
    if not any_of:
        return (1.0,) * HOURS_PER_WEEK
    shares = [0.0] * HOURS_PER_WEEK
    covered_to = 0
    for first, last in sorted(i for r in any_of for i in _week_intervals(r)):
        begin = max(first, covered_to)
        for hour in range(begin // 60, (last + 59) // 60):
            minutes = min(last, hour * 60 + 60) - max(begin, hour * 60)
            shares[hour] += max(0, minutes) / 60
        covered_to = max(covered_to, last)
    return tuple(shares)


def hour_of_week(local: datetime) -> int:
    """The hour of the week of a wall-clock time, 0 to 167 from Monday 00:00."""
    return local.weekday() * 24 + local.hour
