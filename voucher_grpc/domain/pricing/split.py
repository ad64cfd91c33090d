"""Cuts a charge into periods, in each of which the same restrictions hold throughout.

Restrictions change with the wall clock of the location (times of day, dates, weekdays, both
clock changes), with the energy charged and with the time since the start. The cuts are more
than needed: a restriction that ends at 08:00 cuts at each 08:00, whatever else it asks for.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.pricing.charge import (
    SECONDS_PER_HOUR,
    Bounds,
    Charge,
    Period,
    Quantity,
    seconds,
)
from voucher_grpc.domain.pricing.tariff import Tariff

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_ZERO = Fraction(0)


class Cuts(NamedTuple):
    """Where restrictions can start or stop to hold: local minutes of the day, energies, times."""

    minutes: tuple[int, ...]
    energies_wh: tuple[int, ...]
    durations_s: tuple[int, ...]


def cuts_of(tariff: Tariff) -> Cuts:
    """All cuts of a tariff's elements."""
    minutes: set[int] = set()
    energies_wh: set[int] = set()
    durations_s: set[int] = set()
    for element in tariff.elements:
        asked = element.restrictions
        minutes |= _minutes(asked)
        energies_wh |= {e for e in (asked.min_energy_wh, asked.max_energy_wh) if e}
        durations_s |= {d for d in (asked.min_duration_s, asked.max_duration_s) if d}
    return Cuts(tuple(sorted(minutes)), tuple(sorted(energies_wh)), tuple(sorted(durations_s)))


def _minutes(asked: Restrictions) -> set[int]:
    minutes = {m for m in (asked.start_minute, asked.end_minute) if m is not None}
    if minutes or asked.day_of_week or asked.start_date or asked.end_date:
        minutes.add(0)
    return minutes


def split(charge: Charge, cuts: Cuts, zone: ZoneInfo) -> tuple[Period, ...]:
    """The periods of a charge at a place in `zone`, side by side, none empty."""
    cuts_s = {after_s - charge.elapsed_s for after_s in cuts.durations_s}
    if cuts.minutes:
        whole_s = sum((phase.length_s for phase in charge.phases), _ZERO)
        cuts_s |= set(_clock_cuts(cuts.minutes, charge.start, whole_s, zone))
    periods: list[Period] = []
    elapsed_s, energy_wh = _ZERO, charge.energy_before_wh
    for phase in charge.phases:
        shown_w = phase.power_w if phase.shown_power_w is None else phase.shown_power_w
        end_s = elapsed_s + phase.length_s
        inside = cuts_s
        if phase.power_w and cuts.energies_wh:
            inside = cuts_s | {
                elapsed_s + (threshold_wh - energy_wh) * SECONDS_PER_HOUR / phase.power_w
                for threshold_wh in cuts.energies_wh
            }
        inner = sorted(at_s for at_s in inside if elapsed_s < at_s < end_s)
        for begin_s, until_s in pairwise((elapsed_s, *inner, end_s)):
            length_s = until_s - begin_s if begin_s else until_s
            kind = Quantity.TIME if phase.power_w else Quantity.PARKING_TIME
            volumes = {kind: length_s}
            used_wh = phase.power_w * length_s / SECONDS_PER_HOUR if phase.power_w else _ZERO
            if used_wh:
                volumes[Quantity.ENERGY] = used_wh
            periods.append(
                Period(
                    start=_instant(charge.start, begin_s),
                    elapsed_s=charge.elapsed_s + begin_s if charge.elapsed_s else begin_s,
                    energy_before_wh=energy_wh,
                    volumes=volumes,
                    power=Bounds(shown_w, shown_w),
                    current=Bounds(phase.current_ma, phase.current_ma),
                    length_s=length_s,
                )
            )
            energy_wh = energy_wh + used_wh if energy_wh else used_wh
        elapsed_s = end_s
    return tuple(periods)


def _instant(start: datetime, offset_s: Fraction) -> datetime:
    """Down to the microsecond before: a period never begins before what it is priced by."""
    return start + timedelta(microseconds=offset_s.numerator * 1_000_000 // offset_s.denominator)


def _clock_cuts(
    minutes: tuple[int, ...], start: datetime, length_s: Fraction, zone: ZoneInfo
) -> Iterator[Fraction]:
    """Seconds after the start at which the wall clock shows one of the minutes, or is changed."""
    end = _instant(start, length_s)
    day, last = start.astimezone(zone).date(), end.astimezone(zone).date()
    while day <= last:
        instants = _instants_of(day, minutes, zone)
        for at in instants[bisect_right(instants, start) : bisect_left(instants, end)]:
            yield seconds(at - start)
        day += _DAY


# A day in some zone with the minutes of some tariff. 96 of them are 10 kB.
@lru_cache(maxsize=1024)
def _instants_of(day: date, minutes: tuple[int, ...], zone: ZoneInfo) -> tuple[datetime, ...]:
    """When the clock shows one of these minutes on that day, or is changed, in order."""
    shown = [datetime.combine(day, time(m // 60, m % 60), zone) for m in minutes]
    change = _clock_change(day, zone)
    if change:  # an hour may be repeated
        shown += [local.replace(fold=1) for local in shown]
    return tuple(sorted({*(local.astimezone(UTC) for local in shown), *change}))


def _clock_change(day: date, zone: ZoneInfo) -> list[datetime]:
    """The instant at which the clock is changed on that day, if it is."""
    begin = datetime.combine(day, time(), zone).astimezone(UTC)
    before = begin.astimezone(zone).utcoffset()
    day_s = range(int(2 * _DAY / _SECOND))

    def changed(after_s: int) -> bool:
        return (begin + after_s * _SECOND).astimezone(zone).utcoffset() != before

    if not changed(int(_DAY / _SECOND) + 2 * SECONDS_PER_HOUR):
        return []
    return [begin + bisect_left(day_s, True, key=changed) * _SECOND]
