"""Conditions agree with a literal reading of OCPI on millions of instants where clocks change.

The literal side has a local time of its own: each zone's changes, found by a scan,
and not the conversion that the service makes at each instant.
"""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest

from tests.unit import ocpi_literal
from tests.unit.test_conditions import literal
from voucher_grpc.domain.catalogue.conditions import (
    ChargeState,
    Restrictions,
    UsageConditions,
    conditions_hold,
    restrictions_hold,
)
from voucher_grpc.ocpi import DAYS

# Each has a rule of its own.
ZONES = (
    "Africa/Casablanca",  # an hour back for Ramadan
    "America/New_York",
    "America/Sao_Paulo",  # at midnight
    "America/St_Johns",  # at 00:01 until 2011
    "Antarctica/Troll",  # by two hours
    "Asia/Tehran",  # at midnight, by the Persian calendar
    "Australia/Lord_Howe",  # by half an hour
    "Europe/London",
    "Europe/Oslo",
    "Pacific/Apia",  # without 30 December 2011
)
FIRST, LAST = datetime(2004, 1, 1), datetime(2029, 1, 1)  # noqa: DTZ001
DAY = timedelta(days=1)
WINDOWS_A_ZONE = 4_500
INSTANTS_A_WINDOW = 48
# How far from a bound, to the microsecond.
STEPS = tuple(
    timedelta(microseconds=us)
    for us in (-60_000_000, -1_000_000, -1, 0, 0, 0, 1, 1_000_000, 59_999_999, 60_000_000)
)
HOURS_FROM_CHANGE = (3, 6, 30)
BOUNDS = ((None, 4), (1, None), (2, 5), (0, 6))
VALUES = (None, *range(7))


class Change(NamedTuple):
    """A change of a zone's offset. Here instants are in UTC without saying so."""

    at: datetime
    before: timedelta
    after: timedelta

    def wall(self, instant: datetime) -> datetime:
        """What clocks show at an instant within some days of the change."""
        return instant + (self.after if instant >= self.at else self.before)

    def repeats(self, instant: datetime) -> bool:
        """Whether clocks show the same twice, once before the change and once after."""
        return abs(instant - self.at) < self.before - self.after


def offset_at(zone: ZoneInfo, instant: datetime) -> timedelta:
    """The zone's offset from UTC."""
    return instant.replace(tzinfo=UTC).astimezone(zone).utcoffset() or timedelta()


def changes_of(zone: ZoneInfo) -> list[Change]:
    """Every change from FIRST to LAST, to the second."""
    found = []
    days = [FIRST + n * DAY for n in range((LAST - FIRST).days)]
    for (low, before), (high, after) in pairwise((day, offset_at(zone, day)) for day in days):
        if before == after:
            continue
        # The change is after `low` and not after `high`.
        while high - low > timedelta(seconds=1):
            middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
            low, high = (middle, high) if offset_at(zone, middle) == before else (low, middle)
        found.append(Change(high, before, after))
    assert all(later.at - earlier.at > 7 * DAY for earlier, later in pairwise(found))
    return found


def minute_near(change: Change, rng: random.Random) -> int | None:
    """A minute of the day, often one that clocks skip, repeat or stand at when they change."""
    kind = rng.randrange(8)
    if kind < 4:
        wall = change.at + rng.choice((change.before, change.after))
        return (wall.hour * 60 + wall.minute + rng.choice((-60, -30, -1, 0, 0, 1, 15, 30))) % 1440
    if kind < 6:
        return rng.randrange(1440)
    return 0 if kind == 6 else None


def restrictions_near(change: Change, rng: random.Random) -> Restrictions:
    """Any window, often with days, at times with dates or bounds on one quantity."""
    today = change.wall(change.at).date()
    start, end = minute_near(change, rng), minute_near(change, rng)
    bounds: list[int | None] = [None] * 8
    if rng.random() < 0.25:
        quantity = 2 * rng.randrange(4)
        bounds[quantity : quantity + 2] = rng.choice(BOUNDS)
    return Restrictions(
        start,
        start if rng.random() < 0.05 else end,
        today + rng.randrange(-3, 2) * DAY if rng.random() < 0.25 else None,
        today + rng.randrange(0, 4) * DAY if rng.random() < 0.25 else None,
        frozenset(day for day in DAYS if rng.random() < 0.6) if rng.random() < 0.5 else frozenset(),
        *bounds,
    )


def instants_near(change: Change, window: Restrictions, rng: random.Random) -> Iterator[datetime]:
    """A third on the window's bounds and on midnight, some at the change, most within hours of it.

    A wall-clock time is taken with the offset before the change and with that
    after it, so that both of a repeated time come up.
    """
    today = (change.at + change.before).date()
    bounds = [
        datetime.combine(today + days * DAY, time(minute // 60, minute % 60)) - offset
        for days in (-1, 0, 1)
        for minute in (window.start_minute or 0, window.end_minute or 0, 0)
        for offset in (change.before, change.after)
    ]
    for n in range(INSTANTS_A_WINDOW):
        if n % 3 == 0:
            yield rng.choice(bounds) + rng.choice(STEPS)
        elif n % 16 == 1:
            yield change.at + rng.choice(STEPS)
        else:
            hours = rng.choice(HOURS_FROM_CHANGE)
            yield change.at + timedelta(hours=rng.uniform(-hours, hours))


def charges(rng: random.Random) -> list[tuple[ChargeState, dict[str, int | None]]]:
    """States of a charge, each as the service and as the literal reading have it."""
    states = [ChargeState(*rng.choices(VALUES, k=4)) for _ in range(200)]
    return [
        (s, {"wh": s.energy_wh, "s": s.duration_s, "w": s.power_w, "ma": s.current_ma})
        for s in states
    ]


@pytest.mark.parametrize("zone", ZONES)
def test_conditions_hold_exactly_when_ocpi_read_literally_says_so(zone: str) -> None:
    """Two implementations agree on 216 000 instants and restrictions a zone, 2.16 million in all.

    Each is judged once more by conditions that have other restrictions as an
    alternative. Both answers come often, also in time that occurs twice.
    """
    rng, info = random.Random(zone), ZoneInfo(zone)
    changes, states = changes_of(info), charges(rng)
    other = Restrictions(end_minute=1)
    literal_other = literal(other)
    answers: Counter[tuple[bool, bool]] = Counter()
    for _ in range(WINDOWS_A_ZONE):
        change = rng.choice(changes)
        window = restrictions_near(change, rng)
        conditions, literal_window = UsageConditions((other, window)), literal(window)
        for instant in instants_near(change, window, rng):
            at, wall = instant.replace(tzinfo=UTC), change.wall(instant)
            charge, literal_charge = rng.choice(states)
            face = ocpi_literal.face(wall)
            expected = ocpi_literal.holds_on(literal_window, face, literal_charge)
            assert expected == restrictions_hold(window, at, info, charge), (
                f"{zone}, {at}, {wall} on the clock: {window}, {charge}"
            )
            either = expected or ocpi_literal.holds_on(literal_other, face, literal_charge)
            assert either == conditions_hold(conditions, at, info, charge), (
                f"{zone}, {at}, {wall} on the clock: {conditions}, {charge}"
            )
            answers[change.repeats(instant), expected] += 1
        other, literal_other = window, literal_window
    assert WINDOWS_A_ZONE * INSTANTS_A_WINDOW == answers.total()
    for repeated in (False, True):
        yes, no = answers[repeated, True], answers[repeated, False]
        assert yes + no > 5_000
        assert 0.2 < yes / (yes + no) < 0.6


@pytest.mark.parametrize("zone", ZONES)
def test_the_face_of_a_clock_tells_what_walking_back_finds(zone: str) -> None:
    """The quick literal reading is the slow one."""
    rng = random.Random(zone)
    changes, states = changes_of(ZoneInfo(zone)), charges(rng)
    for _ in range(40):
        change = rng.choice(changes)
        window = restrictions_near(change, rng)
        for instant in rng.sample(list(instants_near(change, window, rng)), k=5):
            wall, (_, charge) = change.wall(instant), rng.choice(states)
            expected = ocpi_literal.holds(literal(window), wall, charge)
            actual = ocpi_literal.holds_on(literal(window), ocpi_literal.face(wall), charge)
            assert expected == actual, (wall, window, charge)
