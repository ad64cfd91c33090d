"""Splitting changes nothing: against a second reading of OCPI, minute by minute."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.ocpi_literal import window_open
from tests.unit.pricing_builders import charge, component, element, priced, tariff, total
from voucher_grpc.domain.pricing.charge import Charge, Phase
from voucher_grpc.domain.pricing.engine import price_periods
from voucher_grpc.domain.pricing.split import cuts_of, split

ZONES = [ZoneInfo(name) for name in ("Europe/Oslo", "Asia/Kolkata", "America/St_Johns", "UTC")]
# One kWh a minute, so that energies are reached at whole minutes.
POWER_W = 60_000
# Days of both clock changes among others.
STARTS = st.sampled_from(
    [(2026, 3, 28), (2026, 3, 29), (2026, 10, 24), (2026, 10, 25), (2026, 6, 2)]
)

times = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.sampled_from([0, 15, 30, 45]))
days = st.lists(
    st.sampled_from(["FRIDAY", "SATURDAY", "SUNDAY", "MONDAY"]), max_size=3, unique=True
)
restrictions = st.fixed_dictionaries(
    {},
    optional={
        "start_time": times,
        "end_time": times,
        "day_of_week": days,
        "start_date": st.sampled_from(["2026-03-29", "2026-10-25", "2026-06-03"]),
        "end_date": st.sampled_from(["2026-03-29", "2026-10-25", "2026-06-03"]),
        "min_kwh": st.integers(0, 300),
        "max_kwh": st.integers(1, 300),
        "min_duration": st.integers(0, 600).map(lambda minutes: minutes * 60),
        "max_duration": st.integers(1, 600).map(lambda minutes: minutes * 60),
        "min_power": st.sampled_from([10, 60, 61]),
        "max_power": st.sampled_from([10, 60, 61]),
    },
)
components = st.lists(
    st.builds(component, st.sampled_from(["ENERGY", "TIME", "PARKING_TIME"]), st.integers(0, 9)),
    min_size=1,
    max_size=3,
    unique_by=lambda c: c["type"],
)
elements = st.lists(
    st.builds(lambda cs, r: element(*cs, **r), components, restrictions), min_size=1, max_size=5
)


def literal(
    published: list[dict[str, Any]], start: datetime, charging: int, parking: int, zone: ZoneInfo
) -> Fraction:
    """The sum over minutes, each by the first element that is good in it."""
    sum_ = Fraction(0)
    for minute in range(charging + parking):
        wall = (start + timedelta(minutes=minute)).astimezone(zone)
        power_kw = 60 if minute < charging else 0
        state = {"kwh": min(minute, charging), "duration": minute * 60, "power": power_kw}
        for kind, amount in (
            ("ENERGY", Fraction(power_kw, 60)),
            ("TIME", Fraction(1, 60) if power_kw else Fraction(0)),
            ("PARKING_TIME", Fraction(0) if power_kw else Fraction(1, 60)),
        ):
            price = next(
                (
                    c["price"]
                    for e in published
                    for c in e["price_components"]
                    if c["type"] == kind and _good(e["restrictions"], wall, state)
                ),
                0,
            )
            sum_ += price * amount
    return sum_


def _good(asked: dict[str, Any], wall: datetime, state: dict[str, int]) -> bool:
    for name, value in state.items():
        if f"min_{name}" in asked and value < asked[f"min_{name}"]:
            return False
        if f"max_{name}" in asked and value >= asked[f"max_{name}"]:
            return False
    return window_open(asked, wall)


@given(
    published=elements,
    date=STARTS,
    minute=st.integers(0, 1_439),
    charging=st.integers(1, 400),
    parking=st.integers(0, 400),
    zone=st.sampled_from(ZONES),
)
def test_a_charge_costs_what_its_minutes_cost(
    published: list[dict[str, Any]],
    date: tuple[int, int, int],
    minute: int,
    charging: int,
    parking: int,
    zone: ZoneInfo,
) -> None:
    """Windows, weekdays, dates, both clock changes, tiers, durations and power, exactly."""
    start = datetime(*date, tzinfo=UTC) + timedelta(minutes=minute)
    price = priced(tariff(*published), charge(charging + parking, charging, 60, start), zone)
    assert literal(published, start, charging, parking, zone) == total(price)


@given(
    published=elements,
    minute=st.integers(0, 1_439),
    pieces=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    parking=st.integers(0, 300),
)
def test_a_phase_that_is_cut_anywhere_costs_the_same(
    published: list[dict[str, Any]], minute: int, pieces: list[int], parking: int
) -> None:
    """Steps aside: they count once for the whole."""
    of, start = tariff(*published), datetime(2026, 10, 24, tzinfo=UTC) + timedelta(minutes=minute)
    power, still = Fraction(POWER_W), Phase(Fraction(parking * 60), Fraction(0))
    whole = Charge(start, (Phase(Fraction(sum(pieces) * 60), power), still))
    cut = Charge(start, (*(Phase(Fraction(piece * 60), power) for piece in pieces), still))
    one, other = (
        price_periods(of, split(c, cuts_of(of), ZONES[0]), ZONES[0]) for c in (whole, cut)
    )
    assert one.totals == other.totals


WINDOW = {"start_time", "end_time"}


@given(published=elements, more=restrictions, minute=st.integers(0, 1_439))
def test_a_new_restriction_never_enlarges_where_its_element_applies(
    published: list[dict[str, Any]], more: dict[str, Any], minute: int
) -> None:
    """The element alone, before and after: it bills no more volume. A window is one restriction:
    until 06:00 and from 22:00 to 06:00 are two different ones."""
    first = published[0]
    own = {k: v for k, v in first["restrictions"].items() if v}
    if own.keys() & WINDOW:
        more = {k: v for k, v in more.items() if k not in WINDOW}
    added = {**more, **own}
    start = datetime(2026, 10, 24, tzinfo=UTC) + timedelta(minutes=minute)
    volumes = []
    for asked in (first["restrictions"], added):
        of = tariff({**first, "restrictions": asked})
        periods = priced(of, charge(500, 250, 60, start)).periods
        volumes.append(sum(item.billed_volume for p in periods for item in p.items))
    assert volumes[1] <= volumes[0]


@given(
    prices=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    starts=st.lists(times, min_size=4, max_size=4),
    kwh=st.integers(1, 100),
    more=st.integers(0, 100),
)
def test_without_tiers_more_energy_in_the_same_time_never_costs_less(
    prices: list[int], starts: list[str], kwh: int, more: int
) -> None:
    """By whatever times of day."""
    windows = [
        element(component("ENERGY", price, 1_000), start_time=begin)
        for price, begin in zip(prices, starts, strict=False)
    ]
    of = tariff(*windows, element(component("ENERGY", 1, 1_000), component("TIME", 2)))
    assert total(priced(of, charge(600, kwh))) <= total(priced(of, charge(600, kwh + more)))
