"""Prices the periods of a charge by one tariff: pure, exact, and not rounded.

Rules (OCPI 2.2.1, 11. Tariffs module; docs/pricing.md where it is silent or ambiguous):

- In each period, and for each dimension by itself, the first element in the tariff's order wins
  that has a price component of the dimension and whose restrictions hold at the period's start
  (11.4.4 TariffElement).
- FLAT is billed once, by the first element that has it (11.4.5 TariffDimensionType).
- `step_size` counts once for ENERGY, on the session's total, with the step of the last ENERGY
  component, and once for TIME and PARKING_TIME together, on the total of that which is billed
  last (11.4.2 PriceComponent).
- `min_price` and `max_price` bound the whole, before and after tax (11.3.1 Tariff object).
- Elements with the restriction `reservation` price reservations, and nothing else does; of one
  that has expired those with RESERVATION_EXPIRES come first (11.4.6 TariffRestrictions).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.conditions import time_holds
from voucher_grpc.domain.pricing.amounts import Amount, sum_of, taxed
from voucher_grpc.domain.pricing.applicable import asks_for_state, asks_for_time, state_holds
from voucher_grpc.domain.pricing.charge import Period, Quantity
from voucher_grpc.domain.pricing.limits import Limit, Limits, limits_of
from voucher_grpc.domain.pricing.tariff import (
    PRICED_VOLUME,
    Dimension,
    PriceComponent,
    Reservation,
    Tariff,
    TariffElement,
)
from voucher_grpc.steps import Steps, finished

_ZERO, _ONE = Fraction(0), Fraction(1)


class Category(StrEnum):
    """The totals of a CDR (OCPI 2.2.1, 10.3.1 CDR object: `total_energy_cost` and so on)."""

    ENERGY = "ENERGY"
    TIME = "TIME"
    PARKING = "PARKING"
    FIXED = "FIXED"
    RESERVATION = "RESERVATION"


class Item(NamedTuple):
    """What one component bills in one period: volumes in Wh or seconds, 1 for FLAT.

    `billed_volume` exceeds `volume` by what `step_size` has added.
    """

    category: Category
    element: TariffElement
    component: PriceComponent
    volume: Fraction
    billed_volume: Fraction
    amount: Amount


class PricedPeriod(NamedTuple):
    """A period and what is billed in it."""

    period: Period
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class ChargePrice:
    """Amounts in micro-units of `currency_code`; `limit` None: no bound of the tariff decided.

    `unlimited` is the sum of `totals`, `total` the same within `limits`, the tariff's bounds.
    """

    currency_code: str
    periods: tuple[PricedPeriod, ...]
    totals: Mapping[Category, Amount]
    unlimited: Amount
    total: Amount
    limit: Limit | None
    limits: Limits


class _Line(NamedTuple):
    """A volume to be billed, of a reservation or of a charge."""

    category: Category
    dimension: Dimension
    volume: Fraction
    reserved: bool


_BILLED = {
    Quantity.ENERGY: (Category.ENERGY, Dimension.ENERGY),
    Quantity.TIME: (Category.TIME, Dimension.TIME),
    Quantity.PARKING_TIME: (Category.PARKING, Dimension.PARKING_TIME),
    Quantity.RESERVATION_TIME: (Category.RESERVATION, Dimension.TIME),
}


def price_periods(
    tariff: Tariff,
    periods: Sequence[Period],
    zone: ZoneInfo,
    default_tax_rate: Fraction | None = None,
) -> ChargePrice:
    """What the periods of a charge cost at a place in `zone`.

    `default_tax_rate` is that of components that state none.
    """
    return Pricer(tariff, zone, default_tax_rate).price(periods)


class _Candidate(NamedTuple):
    """A component that may price a dimension, and which of its restrictions must be looked at."""

    element: TariffElement
    component: PriceComponent
    by_state: bool
    by_time: bool


class Pricer:
    """Prices charges by one tariff at places in `zone`; made once, it serves for many.

    `default_tax_rate` is that of components that state none.
    """

    def __init__(self, tariff: Tariff, zone: ZoneInfo, default_tax_rate: Fraction | None) -> None:
        self._tariff = tariff
        self._zone = zone
        self._default_tax_rate = default_tax_rate
        self._candidates: dict[tuple[Reservation | None, Dimension], list[_Candidate]] = {}
        for element in tariff.elements:
            by_state, by_time = (
                asks_for_state(element.restrictions),
                asks_for_time(element.restrictions),
            )
            for component in element.price_components:
                self._candidates.setdefault((element.reservation, component.dimension), []).append(
                    _Candidate(element, component, by_state, by_time)
                )

    def price(self, periods: Sequence[Period]) -> ChargePrice:
        """What the periods of a charge cost."""
        return finished(self.priced(periods))

    def priced(self, periods: Sequence[Period]) -> Steps[ChargePrice]:
        """The same in steps, one for each period: with 500 elements it takes up to 0.5 ms."""
        expired, flat_due = _expired(periods), {True, False}
        priced = []
        for period in periods:
            items = tuple(self._items(period, expired, flat_due))
            priced.append(PricedPeriod(period, items))
            yield
        for quantities in _ROUNDED_TOGETHER:
            self._round_up(priced, quantities)
        totals = _totals(priced)
        unlimited = sum_of(totals.values())
        limits = limits_of(self._tariff, unlimited, self._default_tax_rate)
        total, limit = limits.applied_to(unlimited)
        currency_code = self._tariff.currency_code
        return ChargePrice(currency_code, tuple(priced), totals, unlimited, total, limit, limits)

    def _items(self, period: Period, expired: bool, flat_due: set[bool]) -> Iterator[Item]:
        """What is billed in a period, before steps; `flat_due` loses what FLAT is billed for."""
        for line in _lines(period, flat_due):
            found = self._component(line, period, expired)
            if found is not None:
                if line.dimension is Dimension.FLAT:
                    flat_due.discard(line.reserved)
                element, component = found.element, found.component
                yield self._item(line.category, element, component, line.volume, line.volume)

    def _component(self, line: _Line, period: Period, expired: bool) -> _Candidate | None:
        of_reservation = _EXPIRED_RESERVATION if expired else _RESERVATION
        local = None
        for reservation in of_reservation if line.reserved else _CHARGE:
            for candidate in self._candidates.get((reservation, line.dimension), ()):
                asked = candidate.element.restrictions
                if candidate.by_state and not state_holds(asked, period):
                    continue
                if not candidate.by_time:
                    return candidate
                local = period.start.astimezone(self._zone) if local is None else local
                if time_holds(asked, local):
                    return candidate
        return None

    def _item(
        self,
        category: Category,
        element: TariffElement,
        component: PriceComponent,
        volume: Fraction,
        billed_volume: Fraction,
    ) -> Item:
        rate = component.tax_rate
        rate = self._default_tax_rate if rate is None else rate
        price = component.price_micros * billed_volume / PRICED_VOLUME[component.dimension]
        amount = taxed(price, rate, self._tariff.tax_included)
        return Item(category, element, component, volume, billed_volume, amount)

    def _round_up(
        self, priced: list[PricedPeriod], quantities: Mapping[Category, Quantity]
    ) -> None:
        """Add to what is billed last of these quantities what its step demands on the total.

        The total is all that was used in the session, with what nothing prices: OCPI 2.2.1,
        11.4.2: "the total amount of a certain unit used during a session".
        """
        for number in range(len(priced) - 1, -1, -1):
            items = priced[number].items
            for place in range(len(items) - 1, -1, -1):
                last = items[place]
                if last.category in quantities and last.component.dimension is not Dimension.FLAT:
                    missing = _missing(priced, quantities[last.category], last.component.step_size)
                    if missing:
                        volume, billed = last.volume, last.volume + missing
                        more = self._item(
                            last.category, last.element, last.component, volume, billed
                        )
                        row = (*items[:place], more, *items[place + 1 :])
                        priced[number] = priced[number]._replace(items=row)
                    return


_CHARGE = (None,)
_RESERVATION = (Reservation.RESERVATION,)
_EXPIRED_RESERVATION = (Reservation.RESERVATION_EXPIRES, Reservation.RESERVATION)
_ROUNDED_TOGETHER: tuple[Mapping[Category, Quantity], ...] = tuple(
    {_BILLED[quantity][0]: quantity for quantity in quantities}
    for quantities in (
        (Quantity.ENERGY,),
        (Quantity.TIME, Quantity.PARKING_TIME),
        (Quantity.RESERVATION_TIME,),
    )
)


def _expired(periods: Sequence[Period]) -> bool:
    """Whether nothing followed a reservation."""
    return not any(period.volumes.keys() - {Quantity.RESERVATION_TIME} for period in periods)


def _lines(period: Period, flat_due: set[bool]) -> Iterator[_Line]:
    reserved = Quantity.RESERVATION_TIME in period.volumes
    if False in flat_due and len(period.volumes) > reserved:
        yield _Line(Category.FIXED, Dimension.FLAT, _ONE, reserved=False)
    if True in flat_due and reserved:
        yield _Line(Category.RESERVATION, Dimension.FLAT, _ONE, reserved=True)
    for quantity, volume in period.volumes.items():
        yield _Line(*_BILLED[quantity], volume, quantity is Quantity.RESERVATION_TIME)


def _totals(priced: Sequence[PricedPeriod]) -> Mapping[Category, Amount]:
    billed: dict[Category, list[Amount]] = {}
    for period in priced:
        for item in period.items:
            billed.setdefault(item.category, []).append(item.amount)
    return {category: sum_of(billed.get(category, ())) for category in Category}


def _missing(priced: Sequence[PricedPeriod], quantity: Quantity, step_size: int) -> Fraction:
    """What the total of a quantity lacks to whole steps."""
    if step_size <= 0:
        return _ZERO
    used = sum((p.period.volumes.get(quantity, _ZERO) for p in priced), _ZERO)
    return -used % step_size
