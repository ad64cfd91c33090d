"""What sessions like those of a user cost in the coming 30 days, each priced by the engine.

A session is told by when in the week it begins, its energy and its length; of these only what
the tariffs ask for counts, so that like sessions share a price. Where a tariff or its prices
change within the coming 30 days, each day has its own.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.pricing.amounts import taxed
from voucher_grpc.domain.pricing.benefits import (
    after_energy_bundle,
    after_energy_price,
    after_session_bundle,
)
from voucher_grpc.domain.pricing.charge import (
    MAX_CHARGE,
    SECONDS_PER_HOUR,
    charge_at_connector,
)
from voucher_grpc.domain.pricing.engine import Pricer
from voucher_grpc.domain.pricing.split import Cuts, cuts_of, split
from voucher_grpc.domain.pricing.tariff import Dimension, Tariff

PERIOD = timedelta(days=30)
# A charge goes at no less than this on average where its power is not known; it splits the time
# plugged in into charging and parking.
ASSUMED_POWER_W = 7_000
MINUTES_PER_DAY = 1_440
_DAY = timedelta(days=1)


class UsualSession(NamedTuple):
    """A session as it may happen again: local minutes after Monday 00:00, Wh, s (0: unknown)."""

    minute_of_week: int
    energy_wh: int
    length_s: int


class SessionPrice(NamedTuple):
    """Micro-units after tax: what a session costs, and what passes take off it.

    `energy_bundle` and `session_bundle` cover all of it; `energy_price` is what is not paid any
    more where the pass's price is paid for each kWh instead.
    """

    total: float
    energy_bundle: float
    energy_price: float
    session_bundle: float


class _Days(NamedTuple):
    """Days of the coming period with the same tariff and prices; `first` by weekday, and the
    `number` of them."""

    pricer: Pricer
    cuts: Cuts
    first: dict[int, date]
    number: dict[int, int]


@dataclass(slots=True, eq=False)
class PlacePrices:
    """The tariffs of a place in one currency: each from its instant on, the first one now.

    None in a tariff's place: none is valid from then on. Equal only to itself, so that what was
    found with it is found again at the cost of a look-up. `power_w` is the connector's, 0: not
    known; `tax_rate` is that of components that state none.
    """

    tariffs: tuple[tuple[datetime, Tariff | None], ...]
    tax_rate: Fraction | None
    power_w: int
    time_zone: str
    by_start: bool = field(init=False)
    by_weekday: bool = field(init=False)
    by_length: bool = field(init=False)
    energy_step_wh: int = field(init=False)
    time_step_s: int = field(init=False)
    dated: bool = field(init=False)
    price_per_kwh: float | None = field(init=False)
    _days: tuple[date, Sequence[_Days]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        valid = [tariff for _, tariff in self.tariffs if tariff is not None]
        asked = [element.restrictions for tariff in valid for element in tariff.elements]
        self.by_weekday = any(r.day_of_week for r in asked)
        self.by_start = self.by_weekday or any(
            r.start_minute is not None or r.end_minute is not None for r in asked
        )
        self.by_length = self.by_start or any(_by_length(tariff) for tariff in valid)
        self.energy_step_wh = _largest_step(valid, Dimension.ENERGY)
        self.time_step_s = max(
            _largest_step(valid, Dimension.TIME), _largest_step(valid, Dimension.PARKING_TIME)
        )
        self.dated = len(self.tariffs) > 1 or any(map(_dates, valid))
        self.price_per_kwh = None if self.dated else _price_per_kwh(valid[0], self.tax_rate)

    def today(self, now: datetime) -> date | None:
        """The day on which prices depend, the place's own; None where they are always the same."""
        return now.astimezone(_zone(self.time_zone)).date() if self.dated else None

    def kind(self, session: UsualSession) -> UsualSession:
        """What of a session the tariffs ask for; energies and lengths within 1 %, where that
        is not less than a step. A day of the week counts only where it makes a difference."""
        minute = 0
        if self.by_weekday or self.dated:
            minute = session.minute_of_week
        elif self.by_start:
            minute = session.minute_of_week % MINUTES_PER_DAY
        energy_wh, length_s = session.energy_wh, session.length_s if self.by_length else 0
        return UsualSession(
            minute,
            _within_1_percent(energy_wh, self.energy_step_wh),
            _within_1_percent(length_s, self.time_step_s),
        )

    def price(self, kind: UsualSession, now: datetime) -> SessionPrice:
        """What a session of a kind costs in the coming 30 days, the mean of the days on which it
        may happen."""
        weekday = kind.minute_of_week // MINUTES_PER_DAY
        coming = self._coming(now)
        found = [
            (days.number[weekday], self._price_on(days, days.first[weekday], kind))
            for days in coming
            if weekday in days.number
        ]
        if not found:  # no tariff is valid on that weekday any more: as on the last day of one
            last = coming[-1]
            found = [(1, self._price_on(last, max(last.first.values()), kind))]
        total = sum(count for count, _ in found)
        return SessionPrice(
            *(
                sum(count * price[number] for count, price in found) / total
                for number in range(len(SessionPrice._fields))
            )
        )

    def _coming(self, now: datetime) -> Sequence[_Days]:
        today = now.astimezone(_zone(self.time_zone)).date()
        if self._days is None or (self.dated and self._days[0] != today):
            self._days = today, self._same_days(today)
        return self._days[1]

    def _same_days(self, today: date) -> Sequence[_Days]:
        """The coming days on which a tariff is valid, those with the same prices together. A
        change of the tariff counts from the noon after it, one of its elements from its date."""
        zone = _zone(self.time_zone)
        found: dict[tuple[int, int], _Days] = {}
        changes = {id(tariff): _dates(tariff) for _, tariff in self.tariffs if tariff is not None}
        for number in range(PERIOD // _DAY):
            day = today + number * _DAY
            noon = datetime.combine(day, time(12), zone)
            valid = (t for since, t in reversed(self.tariffs) if since <= noon)
            tariff = next(valid, self.tariffs[0][1])
            if tariff is None:
                continue
            key = id(tariff), bisect_right(changes[id(tariff)], day)
            if key not in found:
                pricer = Pricer(tariff, zone, self.tax_rate)
                found[key] = _Days(pricer, cuts_of(tariff), {}, {})
            days = found[key]
            days.first.setdefault(day.weekday(), day)
            days.number[day.weekday()] = days.number.get(day.weekday(), 0) + 1
        return list(found.values())

    def _price_on(self, days: _Days, day: date, kind: UsualSession) -> SessionPrice:
        zone = _zone(self.time_zone)
        minute = kind.minute_of_week % MINUTES_PER_DAY
        start = datetime.combine(day, time(minute // 60, minute % 60), zone)
        length_s = min(kind.length_s, MAX_CHARGE // timedelta(seconds=1))
        power_w = self.power_w or ASSUMED_POWER_W
        if not length_s:
            length_s = -(-kind.energy_wh * SECONDS_PER_HOUR // power_w)
        end = start + timedelta(seconds=length_s)
        charge = charge_at_connector(start, end, kind.energy_wh, power_w)
        price = days.pricer.price(split(charge, days.cuts, zone))
        total = price.total.after_tax
        return SessionPrice(
            float(total),
            float(total - after_energy_bundle(price)),
            float(total - after_energy_price(price, 0)),
            float(total - after_session_bundle(price)),
        )


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _largest_step(tariffs: Sequence[Tariff], dimension: Dimension) -> int:
    return max(
        (
            component.step_size
            for tariff in tariffs
            for element in tariff.elements
            for component in element.price_components
            if component.dimension is dimension
        ),
        default=0,
    )


def _within_1_percent(value: int, step_size: int) -> int:
    """A multiple of 1, 2, 5, 10, 20, ...: the greatest that is at most 2 % of the value; the value
    itself where a step is larger than 2 % of it."""
    if value < max(100, 50 * step_size):
        return value
    step = next(step for least, step in _STEPS if value >= least)
    return (value + step // 2) // step * step


_STEPS: list[tuple[int, int]] = [
    (50 * n * 10**e, n * 10**e) for e in range(9, -1, -1) for n in (5, 2, 1)
]


def _by_length(tariff: Tariff) -> bool:
    """Whether a price depends on how long a session takes, or on its power."""
    return any(
        component.dimension in (Dimension.TIME, Dimension.PARKING_TIME)
        for element in tariff.elements
        for component in element.price_components
    ) or any(
        bound is not None
        for r in (element.restrictions for element in tariff.elements)
        for bound in (
            r.min_duration_s,
            r.max_duration_s,
            r.min_power_w,
            r.max_power_w,
            r.min_current_ma,
            r.max_current_ma,
        )
    )


def _price_per_kwh(tariff: Tariff, tax_rate: Fraction | None) -> float | None:
    """The price of each kWh where nothing else is paid and it is always the same; else None."""
    components = [c for element in tariff.elements for c in element.price_components]
    if (
        tariff.min_price is not None
        or tariff.max_price is not None
        or any(element.restrictions != _UNRESTRICTED for element in tariff.elements)
        or any(element.reservation is not None for element in tariff.elements)
        or any(c.dimension is not Dimension.ENERGY or c.step_size > 1 for c in components)
        or not components
    ):
        return None
    rate = tax_rate if components[0].tax_rate is None else components[0].tax_rate
    price = taxed(Fraction(components[0].price_micros), rate, tariff.tax_included)
    return float(price.after_tax)


_UNRESTRICTED = Restrictions()


def _dates(tariff: Tariff) -> Sequence[date]:
    restrictions = [element.restrictions for element in tariff.elements]
    return sorted({d for r in restrictions for d in (r.start_date, r.end_date) if d is not None})
