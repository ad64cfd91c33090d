"""Conditions of use hold exactly when OCPI's sentences say so, also when clocks change."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import ocpi_literal
from tests.unit.builders import SPEC, THOROUGH
from voucher_grpc.domain.catalogue.conditions import (
    HOURS_PER_WEEK,
    ChargeState,
    Restrictions,
    Selectors,
    UsageConditions,
    asks_for_connector,
    conditions_hold,
    connector_selected,
    hour_of_week,
    hour_of_week_shares,
    place_contains,
    place_selected,
    restrictions_hold,
    time_holds,
)
from voucher_grpc.ocpi import DAYS, Day, PlaceKey, PowerType

ZONES = (
    "Europe/Oslo",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Tehran",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "UTC",
)
OSLO = ZoneInfo("Europe/Oslo")
NIGHT_OF_MONDAY = Restrictions(22 * 60, 6 * 60, day_of_week=frozenset({Day.MONDAY}))


@lru_cache(maxsize=32)
def changes_of(zone: str) -> tuple[datetime, ...]:
    """Days before which a zone's offset changed, 2009 to 2027; one plain day if it never did."""
    info, day = ZoneInfo(zone), datetime(2009, 1, 1, tzinfo=UTC)
    found, offset = [], day.astimezone(info).utcoffset()
    while day.year < 2028:
        day += timedelta(days=1)
        if (now := day.astimezone(info).utcoffset()) != offset:
            found.append(day)
            offset = now
    return tuple(found) or (datetime(2026, 3, 29, tzinfo=UTC),)


minutes = st.one_of(
    st.none(), st.integers(0, 1439), st.sampled_from([0, 1, 60, 120, 150, 180, 1320, 1380, 1439])
)
limits = st.one_of(st.none(), st.integers(0, 6))
values = st.one_of(st.none(), st.integers(0, 6))
dates = st.one_of(st.none(), st.dates(date(2009, 1, 1), date(2028, 1, 1)))


@st.composite
def windows(draw: st.DrawFn) -> Restrictions:
    """Times and days."""
    start, end = draw(minutes), draw(minutes)
    if start and start == end:
        end = None  # refused by the service: an empty window
    return Restrictions(start, end, day_of_week=draw(st.frozensets(st.sampled_from(DAYS))))


@st.composite
def restrictions(draw: st.DrawFn) -> Restrictions:
    """All fields."""
    window = draw(windows())
    return Restrictions(
        window.start_minute,
        window.end_minute,
        draw(dates),
        draw(dates),
        window.day_of_week,
        *(draw(limits) for _ in range(8)),
    )


@st.composite
def instants(draw: st.DrawFn) -> tuple[datetime, str]:
    """An instant within a day and a half of a change of the clocks, and the zone."""
    zone = draw(st.sampled_from(ZONES))
    change = draw(st.sampled_from(changes_of(zone)))
    seconds = draw(st.integers(-36 * 3600, 36 * 3600))
    return change + timedelta(seconds=seconds), zone


charges = st.builds(
    ChargeState, energy_wh=values, duration_s=values, power_w=values, current_ma=values
)


def text(minute: int | None) -> str | None:
    return None if minute is None else f"{minute // 60:02d}:{minute % 60:02d}"


def literal(r: Restrictions) -> dict[str, object]:
    """The same restrictions as OCPI writes them."""
    return {
        "start_time": text(r.start_minute),
        "end_time": text(r.end_minute),
        "start_date": r.start_date and str(r.start_date),
        "end_date": r.end_date and str(r.end_date),
        "day_of_week": [day.value for day in r.day_of_week],
        "min_wh": r.min_energy_wh,
        "max_wh": r.max_energy_wh,
        "min_ma": r.min_current_ma,
        "max_ma": r.max_current_ma,
        "min_w": r.min_power_w,
        "max_w": r.max_power_w,
        "min_s": r.min_duration_s,
        "max_s": r.max_duration_s,
    }


@THOROUGH
@given(restrictions(), instants(), charges)
def test_restrictions_hold_exactly_when_a_literal_reading_of_ocpi_says_so(
    r: Restrictions, instant: tuple[datetime, str], charge: ChargeState
) -> None:
    """Two independent implementations agree around every kind of change of the clocks."""
    at, zone = instant
    wall = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    state = {
        "wh": charge.energy_wh,
        "ma": charge.current_ma,
        "w": charge.power_w,
        "s": charge.duration_s,
    }
    expected = ocpi_literal.holds(literal(r), wall, state)
    assert expected == restrictions_hold(r, at, ZoneInfo(zone), charge)


@THOROUGH
@given(windows(), instants())
def test_windows_are_open_exactly_when_a_literal_reading_says_so(
    window: Restrictions, instant: tuple[datetime, str]
) -> None:
    """Times and days alone, so that most examples are decided by them."""
    wall = instant[0].astimezone(ZoneInfo(instant[1]))
    expected = ocpi_literal.window_open(literal(window), wall.replace(tzinfo=None))
    assert expected == time_holds(window, wall)


@given(st.lists(windows(), max_size=4))
@SPEC
def test_shares_of_hours_equal_the_count_of_minutes(any_of: list[Restrictions]) -> None:
    """For any union of windows, overlapping or not, each minute counts once."""
    inside = set().union(*(ocpi_literal.minutes_of_week(literal(r)) for r in any_of))
    if not any_of:
        inside = set(range(HOURS_PER_WEEK * 60))
    expected = [
        sum(minute in inside for minute in range(hour * 60, hour * 60 + 60)) / 60
        for hour in range(HOURS_PER_WEEK)
    ]
    assert expected == pytest.approx(hour_of_week_shares(tuple(any_of)), abs=1e-12)


@given(windows(), st.integers(0, 7 * 1440 - 1))
@SPEC
def test_the_two_literal_readings_agree(window: Restrictions, minute: int) -> None:
    """Walking back from an instant and forward through a week find the same windows."""
    wall = datetime(2024, 1, 1) + timedelta(minutes=minute)  # noqa: DTZ001
    inside = ocpi_literal.minutes_of_week(literal(window))
    assert (minute in inside) == ocpi_literal.window_open(literal(window), wall)


@pytest.mark.parametrize(
    ("wall", "inside"),
    [
        ("2026-11-16T21:59", False),  # Monday
        ("2026-11-16T22:00", True),
        ("2026-11-17T03:00", True),  # Tuesday: the window opened on Monday
        ("2026-11-17T05:59", True),
        ("2026-11-17T06:00", False),
        ("2026-11-17T22:00", False),
        ("2026-11-16T03:00", False),  # Monday: the window opened on Sunday
    ],
)
def test_a_wrapping_window_belongs_to_the_day_on_which_it_starts(wall: str, inside: bool) -> None:
    """MONDAY 22:00-06:00: Tuesday 03:00 is in, Monday 03:00 is out."""
    assert inside == time_holds(NIGHT_OF_MONDAY, datetime.fromisoformat(wall))


def test_sundays_night_reaches_into_monday() -> None:
    """The week wraps as the day does."""
    night = Restrictions(22 * 60, 6 * 60, day_of_week=frozenset({Day.SUNDAY}))
    assert time_holds(night, datetime.fromisoformat("2026-11-16T03:00"))
    assert hour_of_week_shares((night,))[3] == 1.0


@pytest.mark.parametrize("end_minute", [None, 0])
def test_a_missing_end_and_midnight_are_the_end_of_the_day(end_minute: int | None) -> None:
    """22:00 without an end lasts to midnight, as 22:00-00:00 does."""
    evening = Restrictions(22 * 60, end_minute)
    assert time_holds(evening, datetime.fromisoformat("2026-11-16T23:59:59"))
    assert not time_holds(evening, datetime.fromisoformat("2026-11-17T00:00"))
    assert sum(hour_of_week_shares((evening,))) == 14


@pytest.mark.parametrize("end_minute", [None, 0])
def test_no_times_at_all_are_the_whole_day(end_minute: int | None) -> None:
    """00:00-00:00 is a day, not nothing."""
    assert (1.0,) * 168 == hour_of_week_shares((Restrictions(0, end_minute),))
    assert time_holds(Restrictions(None, end_minute), datetime.fromisoformat("2026-11-17T00:00"))


def test_an_hour_that_occurs_twice_is_inside_both_times() -> None:
    """02:30 on the last Sunday of October, before and after the change."""
    window = Restrictions(2 * 60, 3 * 60)
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    held = [
        restrictions_hold(window, first + timedelta(hours=hours), OSLO, ChargeState())
        for hours in range(-1, 3)
    ]
    assert [False, True, True, False] == held


def test_an_hour_that_is_skipped_never_comes() -> None:
    """02:00-03:00 on the last Sunday of March holds at no instant."""
    window = Restrictions(2 * 60, 3 * 60)
    midnight = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)
    held = [
        restrictions_hold(window, midnight + timedelta(minutes=m), OSLO, ChargeState())
        for m in range(23 * 60)
    ]
    assert not any(held)


def test_a_night_is_seven_hours_in_spring_and_nine_in_autumn() -> None:
    """22:00-06:00 by the wall clock, not by a count of hours."""

    def length_h(evening: datetime) -> float:
        window = Restrictions(22 * 60, 6 * 60)
        held = sum(
            restrictions_hold(window, evening + timedelta(minutes=m), OSLO, ChargeState())
            for m in range(15 * 60)
        )
        return held / 60

    assert length_h(datetime(2026, 3, 28, 18, tzinfo=UTC)) == 7
    assert length_h(datetime(2026, 10, 24, 18, tzinfo=UTC)) == 9
    assert length_h(datetime(2026, 6, 1, 18, tzinfo=UTC)) == 8


def test_dates_are_local_and_the_last_one_is_excluded() -> None:
    """From the first midnight in Oslo to the last, not in UTC."""
    june = Restrictions(start_date=date(2026, 6, 1), end_date=date(2026, 7, 1))

    def held(at: datetime) -> bool:
        return restrictions_hold(june, at, OSLO, ChargeState())

    assert not held(datetime(2026, 5, 31, 21, 59, tzinfo=UTC))
    assert held(datetime(2026, 5, 31, 22, 0, tzinfo=UTC))
    assert held(datetime(2026, 6, 30, 21, 59, tzinfo=UTC))
    assert not held(datetime(2026, 6, 30, 22, 0, tzinfo=UTC))


def test_a_date_that_a_zone_skipped_holds_nowhere_in_it() -> None:
    """Samoa had no 30 December 2011."""
    day = Restrictions(start_date=date(2011, 12, 30), end_date=date(2011, 12, 31))
    start = datetime(2011, 12, 28, tzinfo=UTC)
    assert not any(
        restrictions_hold(day, start + timedelta(hours=h), ZoneInfo("Pacific/Apia"), ChargeState())
        for h in range(96)
    )


@pytest.mark.parametrize("quantity", ["energy_wh", "current_ma", "power_w", "duration_s"])
def test_lower_bounds_are_inclusive_and_upper_ones_exclusive(quantity: str) -> None:
    """min <= value < max, for each quantity."""
    bounds: dict[str, Any] = {f"min_{quantity}": 10, f"max_{quantity}": 20}
    between = Restrictions(**bounds)
    at = datetime(2026, 6, 1, tzinfo=UTC)
    held = [
        restrictions_hold(between, at, OSLO, ChargeState(**{quantity: value}))
        for value in (9, 10, 19, 20)
    ]
    assert [False, True, True, False] == held


@pytest.mark.parametrize("quantity", ["energy_wh", "current_ma", "power_w", "duration_s"])
@pytest.mark.parametrize("bound", ["min", "max"])
def test_what_is_not_known_satisfies_no_bound(quantity: str, bound: str) -> None:
    """A station that does not report its power does not meet a bound on it."""
    bounds: dict[str, Any] = {f"{bound}_{quantity}": 10}
    bounded = Restrictions(**bounds)
    at = datetime(2026, 6, 1, tzinfo=UTC)
    assert not restrictions_hold(bounded, at, OSLO, ChargeState(**{quantity: None}))


def test_one_alternative_is_enough_and_none_means_always() -> None:
    """any_of is an OR."""
    at = datetime(2026, 11, 16, 12, tzinfo=UTC)
    noon = Restrictions(12 * 60, 14 * 60)
    assert conditions_hold(UsageConditions(), at, OSLO, ChargeState())
    assert conditions_hold(UsageConditions((NIGHT_OF_MONDAY, noon)), at, OSLO, ChargeState())
    assert not conditions_hold(UsageConditions((NIGHT_OF_MONDAY,)), at, OSLO, ChargeState())


def test_the_hour_of_the_week_counts_from_monday_midnight() -> None:
    """0 to 167, and 02:30 is the same hour both times."""
    assert hour_of_week(datetime.fromisoformat("2026-11-16T00:59")) == 0
    assert hour_of_week(datetime.fromisoformat("2026-11-22T23:00")) == 167
    twice = [datetime(2026, 10, 25, h, 30, tzinfo=UTC).astimezone(OSLO) for h in (0, 1)]
    assert hour_of_week(twice[0]) == hour_of_week(twice[1])


def test_a_location_contains_its_evses_and_an_evse_its_connectors() -> None:
    """A selector matches what it contains, never what contains it."""
    home = PlaceKey("NO", "OSL", "home")
    evse, other = PlaceKey("NO", "OSL", "home", "1"), PlaceKey("NO", "OSL", "home", "2")
    connector = PlaceKey("NO", "OSL", "home", "1", "a")
    assert place_contains(home, connector)
    assert place_contains(evse, connector)
    assert not place_contains(other, connector)
    assert not place_contains(evse, home)
    assert not place_contains(PlaceKey("NO", "BKK", "home"), home)


def test_selectors_of_operators_and_locations_are_joined_by_and() -> None:
    """A country alone means every operator of it."""
    home = PlaceKey("NO", "OSL", "home")
    assert place_selected(Selectors(), home)
    assert place_selected(Selectors(parties=(("SE", "ABC"), ("NO", ""))), home)
    assert not place_selected(Selectors(parties=(("NO", "BKK"),)), home)
    elsewhere = (PlaceKey("NO", "OSL", "work"),)
    assert not place_selected(Selectors(parties=(("NO", "OSL"),), locations=elsewhere), home)


def test_connector_selectors_want_what_they_ask_for_to_be_known() -> None:
    """Both power bounds are inclusive; an unknown power, type or standard does not match."""
    power = Selectors(min_connector_power_w=50_000, max_connector_power_w=150_000)
    held = [connector_selected(power, None, None, w) for w in (49_999, 50_000, 150_000, 150_001)]
    assert [False, True, True, False] == held
    assert not connector_selected(power, None, None, None)
    assert not connector_selected(power, None, None, 0)
    direct = Selectors(power_types=frozenset({PowerType.DC}))
    assert not connector_selected(direct, None, None, 50_000)
    assert connector_selected(direct, None, PowerType.DC, None)
    mcs = Selectors(connector_standards=frozenset({"MCS"}))
    assert not connector_selected(mcs, "CHADEMO", None, None)
    assert connector_selected(mcs, "MCS", None, None)


@pytest.mark.parametrize(
    ("selectors", "asks"),
    [
        (Selectors(), False),
        (Selectors(parties=(("NO", ""),)), False),
        (Selectors(min_connector_power_w=0), True),
        (Selectors(max_connector_power_w=1), True),
        (Selectors(power_types=frozenset({PowerType.DC})), True),
        (Selectors(connector_standards=frozenset({"MCS"})), True),
    ],
)
def test_only_selectors_of_connectors_ask_for_one(selectors: Selectors, asks: bool) -> None:
    """Whether a place's connectors must be known at all."""
    assert asks == asks_for_connector(selectors)


def test_a_charge_begins_with_nothing_charged_and_no_time_gone() -> None:
    """What is not known of its power and current is not inside any bound."""
    begun = ChargeState()
    zone, at = ZoneInfo("UTC"), datetime(2026, 1, 1, tzinfo=UTC)
    for holds in (Restrictions(min_energy_wh=0), Restrictions(min_duration_s=0)):
        assert restrictions_hold(holds, at, zone, begun)
    for fails in (
        Restrictions(min_energy_wh=1),
        Restrictions(min_duration_s=1),
        Restrictions(min_power_w=0),
        Restrictions(min_current_ma=0),
    ):
        assert not restrictions_hold(fails, at, zone, begun)


@pytest.mark.parametrize(
    ("low", "high", "selected"),
    [
        (None, None, (1, 50_000, 90_000)),
        (50_000, None, (50_000, 90_000)),
        (None, 50_000, (1, 50_000)),
        (50_000, 50_000, (50_000,)),
    ],
)
def test_a_connector_is_selected_by_its_power_from_either_side(
    low: int | None, high: int | None, selected: tuple[int, ...]
) -> None:
    """Both bounds are inclusive, and either may be missing."""
    selectors = Selectors(min_connector_power_w=low, max_connector_power_w=high)
    found = [w for w in (1, 50_000, 90_000) if connector_selected(selectors, None, None, w)]
    assert list(selected) == found
