"""A second reading of OCPI's TariffRestrictions, slow and literal.

It shares no code with voucher_grpc: it works on the wall clock as text, the way
a person would read the sentences of OCPI 2.2.1, 11.4.6, minute by minute. Where
millions are judged, `holds_on` reads the face of a clock instead of walking back.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

DAY_NAMES = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
MINUTE = timedelta(minutes=1)
Restriction = Mapping[str, Any]
Charge = Mapping[str, int | None]

# (value's name, lower bound's name, upper bound's name)
QUANTITIES = (
    ("wh", "min_wh", "max_wh"),
    ("ma", "min_ma", "max_ma"),
    ("w", "min_w", "max_w"),
    ("s", "min_s", "max_s"),
)


def _clock(wall: datetime) -> str:
    return wall.strftime("%H:%M")


def _opened_on(restriction: Restriction, wall: datetime) -> datetime | None:
    """The minute at which the window that is open at `wall` was opened, None if none is.

    Walks back from `wall` until a clock shows the start, or the window is found
    to have closed in between.
    """
    start = restriction.get("start_time") or "00:00"
    end = restriction.get("end_time") or "00:00"  # the end of the day
    minute = wall.replace(second=0, microsecond=0)
    for _ in range(24 * 60):
        if _clock(minute) == start:
            return minute
        if _clock(minute) == end:
            return None
        minute -= MINUTE
    return None


def window_open(restriction: Restriction, wall: datetime) -> bool:
    """Whether times, dates and days of the week hold at a wall-clock time."""
    if not _date_allowed(restriction, wall.strftime("%Y-%m-%d")):
        return False
    opened = _opened_on(restriction, wall)
    if opened is None:
        return False
    days = restriction.get("day_of_week") or DAY_NAMES
    return DAY_NAMES[opened.weekday()] in days


class Face(NamedTuple):
    """What a clock and a calendar show."""

    clock: str
    today: str
    yesterday: str
    today_name: str
    yesterday_name: str


@lru_cache(maxsize=16_384)
def _calendar(today: date) -> tuple[str, str, str, str]:
    yesterday = today - timedelta(days=1)
    return str(today), str(yesterday), DAY_NAMES[today.weekday()], DAY_NAMES[yesterday.weekday()]


def face(wall: datetime) -> Face:
    """What is shown at a wall-clock time."""
    return Face(str(wall)[11:16], *_calendar(wall.date()))


def window_open_on(restriction: Restriction, shown: Face) -> bool:
    """As `window_open`: the window is open if its end was not shown since its start was.

    A time was last shown today if the clock has come that far, else yesterday.
    """
    if not _date_allowed(restriction, shown.today):
        return False
    start = restriction.get("start_time") or "00:00"
    end = restriction.get("end_time") or "00:00"  # the end of the day
    started_today = start <= shown.clock
    started = (shown.today if started_today else shown.yesterday, start)
    ended = (shown.today if end <= shown.clock else shown.yesterday, end)
    if ended > started:
        return False
    days = restriction.get("day_of_week") or DAY_NAMES
    return (shown.today_name if started_today else shown.yesterday_name) in days


def _date_allowed(restriction: Restriction, today: str) -> bool:
    if restriction.get("start_date") and today < restriction["start_date"]:
        return False
    return not restriction.get("end_date") or today < restriction["end_date"]


def holds(restriction: Restriction, wall: datetime, charge: Charge) -> bool:
    """Whether all that is set holds."""
    return window_open(restriction, wall) and _within_bounds(restriction, charge)


def holds_on(restriction: Restriction, shown: Face, charge: Charge) -> bool:
    """As `holds`, from what a clock and a calendar show."""
    return window_open_on(restriction, shown) and _within_bounds(restriction, charge)


def _within_bounds(restriction: Restriction, charge: Charge) -> bool:
    for quantity, low, high in QUANTITIES:
        value = charge.get(quantity)
        for bound in (low, high):
            if restriction.get(bound) is not None and value is None:
                return False
        if value is not None and restriction.get(low) is not None and value < restriction[low]:
            return False
        if value is not None and restriction.get(high) is not None and value >= restriction[high]:
            return False
    return True


def minutes_of_week(restriction: Restriction) -> set[int]:
    """The minutes after Monday 00:00 at which the window is open, walking forward."""
    start = restriction.get("start_time") or "00:00"
    end = restriction.get("end_time") or "00:00"
    minutes = set()
    for day, name in enumerate(DAY_NAMES):
        if restriction.get("day_of_week") and name not in restriction["day_of_week"]:
            continue
        wall = datetime.strptime(f"2024-01-{day + 1:02d} {start}", "%Y-%m-%d %H:%M")  # noqa: DTZ007
        minute = day * 1440 + wall.hour * 60 + wall.minute
        while True:
            minutes.add(minute % (7 * 1440))
            minute += 1
            wall += MINUTE
            if _clock(wall) == end:
                break
    return minutes
