"""A second reading of OCPI's TariffRestrictions, slow and literal.

It shares no code with voucher_grpc: it works on the wall clock as text, the way
a person would read the sentences of OCPI 2.2.1, 11.4.6, minute by minute.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

DAY_NAMES = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
MINUTE = timedelta(minutes=1)
Restriction = Mapping[str, Any]

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
    today = wall.strftime("%Y-%m-%d")
    if restriction.get("start_date") and today < restriction["start_date"]:
        return False
    if restriction.get("end_date") and not today < restriction["end_date"]:
        return False
    opened = _opened_on(restriction, wall)
    if opened is None:
        return False
    days = restriction.get("day_of_week") or DAY_NAMES
    return DAY_NAMES[opened.weekday()] in days


def holds(restriction: Restriction, wall: datetime, charge: Mapping[str, int | None]) -> bool:
    """Whether all that is set holds."""
    if not window_open(restriction, wall):
        return False
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
