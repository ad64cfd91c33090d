"""When a pass begins and ends: on the wall clock, kept as instants."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import SPEC, make_pass, make_terms
from tests.unit.test_conditions import ZONES, changes_of
from voucher_grpc.domain.catalogue.product import (
    Validity,
    ValidityPeriod,
    ValidityStart,
    length_days,
    on_sale,
    validity_end,
    validity_period,
)
from voucher_grpc.domain.passes.state import PassState, pass_state

OSLO = ZoneInfo("Europe/Oslo")
ONE_DAY = Validity(days=1)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def local(text: str, zone: ZoneInfo = OSLO, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).astimezone(UTC)


@pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24", "2026-06-01"])
def test_a_day_ends_at_the_same_wall_clock_time(day: str) -> None:
    """23, 25 or 24 hours later."""
    start = local(f"{day}T12:00")
    following = (datetime.fromisoformat(day) + timedelta(days=1)).date()
    assert local(f"{following}T12:00") == validity_end(ONE_DAY, start, OSLO)


@pytest.mark.parametrize(
    ("start", "months", "end"),
    [
        ("2026-01-31T10:00", 1, "2026-02-28T10:00"),
        ("2024-01-31T10:00", 1, "2024-02-29T10:00"),
        ("2026-01-31T10:00", 3, "2026-04-30T10:00"),
        ("2024-02-29T10:00", 12, "2025-02-28T10:00"),
        ("2026-11-30T10:00", 1, "2026-12-30T10:00"),
        ("2026-12-31T10:00", 2, "2027-02-28T10:00"),
        ("2026-02-28T10:00", 1, "2026-03-28T10:00"),
        ("2026-01-15T10:00", 120, "2036-01-15T10:00"),
    ],
)
def test_a_month_that_is_too_short_ends_on_its_last_day(start: str, months: int, end: str) -> None:
    """Calendar months, counted from the day of the start."""
    assert local(end) == validity_end(Validity(months=months), local(start), OSLO)


def test_an_end_that_is_skipped_moves_to_the_change_of_the_clocks() -> None:
    """02:30 does not exist on 29 March 2026 in Oslo: the clocks go on at 01:00 UTC."""
    assert instant("2026-03-29T01:00Z") == validity_end(ONE_DAY, local("2026-03-28T02:30"), OSLO)


def test_an_end_that_occurs_twice_is_its_first_occurrence() -> None:
    """02:30 on 25 October 2026 in Oslo is first 00:30 UTC."""
    assert instant("2026-10-25T00:30Z") == validity_end(ONE_DAY, local("2026-10-24T02:30"), OSLO)


def test_a_start_in_the_repeated_hour_is_told_from_the_first_one() -> None:
    """Both end at the only 02:30 of the next day."""
    for fold in (0, 1):
        start = local("2026-10-25T02:30", fold=fold)
        assert local("2026-10-26T02:30") == validity_end(ONE_DAY, start, OSLO)


def test_a_change_of_half_an_hour_is_found_too() -> None:
    """Lord Howe goes from 02:00 to 02:30 on 4 October 2026, at 15:30 UTC of the day before."""
    zone = ZoneInfo("Australia/Lord_Howe")
    start = local("2026-10-03T02:15", zone)
    assert instant("2026-10-03T15:30Z") == validity_end(ONE_DAY, start, zone)


def test_a_skipped_day_ends_where_it_was_skipped() -> None:
    """Samoa went from 29 December 2011 24:00 to 31 December 00:00, at 10:00 UTC."""
    zone = ZoneInfo("Pacific/Apia")
    start = local("2011-12-29T12:00", zone)
    assert instant("2011-12-30T10:00Z") == validity_end(ONE_DAY, start, zone)


def test_a_change_at_midnight_is_found_too() -> None:
    """Cairo goes from 00:00 to 01:00 on 24 April 2026."""
    zone = ZoneInfo("Africa/Cairo")
    assert instant("2026-04-23T22:00Z") == validity_end(
        ONE_DAY, local("2026-04-23T00:30", zone), zone
    )


@st.composite
def starts(draw: st.DrawFn) -> tuple[datetime, ZoneInfo, int]:
    """A start so many days before a day on which the clocks change."""
    zone = draw(st.sampled_from(ZONES))
    change = draw(st.sampled_from(changes_of(zone)))
    days = draw(st.integers(1, 400))
    seconds = draw(st.integers(-36 * 3600, 36 * 3600))
    return change - timedelta(days=days, seconds=seconds), ZoneInfo(zone), days


@SPEC
@given(starts())
def test_an_end_is_the_same_wall_clock_time_or_the_change_that_skips_it(
    case: tuple[datetime, ZoneInfo, int],
) -> None:
    """Around changes of the clocks in many zones; never before the start, and it ends."""
    start, zone, days = case
    end = validity_end(Validity(days=days), start, zone)
    wanted = start.astimezone(zone).replace(tzinfo=None) + timedelta(days=days)
    reading = end.astimezone(zone).replace(tzinfo=None)
    if reading == wanted:
        earlier = end - timedelta(hours=3)
        walls = [earlier + timedelta(minutes=15 * n) for n in range(12)]
        assert all(w.astimezone(zone).replace(tzinfo=None) != wanted for w in walls)
    else:
        before = (end - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None)
        assert before < wanted < reading
    assert end > start


@SPEC
@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from(ZONES),
    st.integers(1, 120),
)
def test_more_months_never_end_sooner(start: datetime, zone: str, months: int) -> None:
    """Ends grow with the number of months, whatever the start."""
    ends = [validity_end(Validity(months=m), start, ZoneInfo(zone)) for m in (months, months + 1)]
    assert start < ends[0] < ends[1]


def test_a_pass_that_starts_at_purchase_is_good_at_once() -> None:
    """The rule of most products."""
    bought = local("2026-11-01T10:00")
    period = validity_period(Validity(days=30), bought, OSLO)
    assert ValidityPeriod(bought, local("2026-12-01T10:00")) == period
    assert pass_state(make_pass(period=period), bought) is PassState.ACTIVE


def test_a_pass_that_starts_with_its_first_use_waits_for_it() -> None:
    """Only the last day for the first use is known at the purchase."""
    bought = local("2026-01-31T10:00")
    validity = Validity(days=30, start=ValidityStart.FIRST_USE, first_use_within_days=60)
    period = validity_period(validity, bought, OSLO)
    latest = local("2026-04-01T10:00")
    assert ValidityPeriod(None, None, latest) == period
    assert (
        pass_state(make_pass(period=period), latest - timedelta(microseconds=1))
        is PassState.NOT_STARTED
    )
    assert pass_state(make_pass(period=period), latest) is PassState.EXPIRED


def test_a_pass_that_starts_later_is_not_good_before() -> None:
    """AT an instant to come."""
    bought, start = local("2026-11-01T10:00"), local("2026-12-01T00:00")
    period = validity_period(
        Validity(months=1, start=ValidityStart.AT, start_time=start), bought, OSLO
    )
    assert ValidityPeriod(start, local("2027-01-01T00:00")) == period
    assert pass_state(make_pass(period=period), bought) is PassState.NOT_STARTED
    assert pass_state(make_pass(period=period), start) is PassState.ACTIVE


def test_a_pass_whose_start_has_passed_is_good_from_its_purchase() -> None:
    """It ends as if it had started on time: December's pass bought on the tenth."""
    bought, start = local("2026-12-10T10:00"), local("2026-12-01T00:00")
    period = validity_period(
        Validity(months=1, start=ValidityStart.AT, start_time=start), bought, OSLO
    )
    assert ValidityPeriod(bought, local("2027-01-01T00:00")) == period


def test_a_pass_expires_at_its_end_exactly() -> None:
    """The end is exclusive, to the microsecond."""
    period = ValidityPeriod(local("2026-11-01T10:00"), local("2026-12-01T10:00"))
    end = local("2026-12-01T10:00")
    assert pass_state(make_pass(period=period), end - timedelta(microseconds=1)) is PassState.ACTIVE
    assert pass_state(make_pass(period=period), end) is PassState.EXPIRED


def test_a_sale_window_starts_inclusive_and_ends_exclusive() -> None:
    """Open ends are open for ever."""
    start, end = local("2026-11-01T00:00"), local("2026-12-01T00:00")
    terms = make_terms(sale_start_time=start, sale_end_time=end)
    moment = timedelta(microseconds=1)
    open_at = [on_sale(terms, at) for at in (start - moment, start, end - moment, end)]
    assert [False, True, True, False] == open_at
    assert on_sale(make_terms(), start)


def test_the_nominal_length_counts_a_month_as_a_twelfth_of_a_year() -> None:
    """For valuations only."""
    assert length_days(Validity(days=30)) == 30
    assert length_days(Validity(months=12)) == pytest.approx(365.25)
