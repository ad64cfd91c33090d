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
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.conditions import time_holds
from voucher_grpc.domain.pricing.amounts import Amount, sum_of, taxed
from voucher_grpc.domain.pricing.charge import Bounds, Period, Quantity
from voucher_grpc.domain.pricing.limits import Limit, Limits, limits_of
from voucher_grpc.domain.pricing.tariff import (
    PRICED_VOLUME,
    Dimension,
    PriceComponent,
    Reservation,
    Tariff,
    TariffElement,
)
from voucher_grpc.rational import Fraction


class Category(StrEnum):
    """The totals of a CDR (OCPI 2.2.1, 10.3.1 CDR object: `total_energy_cost` and so on)."""

    ENERGY = "ENERGY"
    TIME = "TIME"
    PARKING = "PARKING"
    FIXED = "FIXED"
    RESERVATION = "RESERVATION"


@dataclass(frozen=True, slots=True)
class Item:
    """What one component bills in one period: volumes in Wh or seconds, 1 for FLAT.

    `billed_volume` exceeds `volume` by what `step_size` has added.
    """

    category: Category
    element: TariffElement
    component: PriceComponent
    volume: Fraction
    billed_volume: Fraction
    amount: Amount


@dataclass(frozen=True, slots=True)
class PricedPeriod:
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
    pricer = _Pricer(tariff, zone, default_tax_rate, _expired(periods))
    priced = [PricedPeriod(period, tuple(pricer.items(period))) for period in periods]
    for quantities in (
        {Quantity.ENERGY},
        {Quantity.TIME, Quantity.PARKING_TIME},
        {Quantity.RESERVATION_TIME},
    ):
        pricer.round_up(priced, quantities)
    items = [item for period in priced for item in period.items]
    totals = {
        category: sum_of(item.amount for item in items if item.category is category)
        for category in Category
    }
    unlimited = sum_of(totals.values())
    limits = limits_of(tariff, unlimited, default_tax_rate)
    total, limit = limits.applied_to(unlimited)
    return ChargePrice(tariff.currency_code, tuple(priced), totals, unlimited, total, limit, limits)


def _expired(periods: Sequence[Period]) -> bool:
    """Whether nothing followed a reservation."""
    return not any(period.volumes.keys() - {Quantity.RESERVATION_TIME} for period in periods)


class _Pricer:
    """One pricing: the tariff, the place's clock and tax, and what FLAT was billed already."""

    def __init__(
        self, tariff: Tariff, zone: ZoneInfo, default_tax_rate: Fraction | None, expired: bool
    ) -> None:
        self._tariff = tariff
        self._zone = zone
        self._default_tax_rate = default_tax_rate
        self._reservations = (
            (Reservation.RESERVATION_EXPIRES, Reservation.RESERVATION)
            if expired
            else (Reservation.RESERVATION,)
        )
        self._flat_due = {True, False}

    def items(self, period: Period) -> Iterator[Item]:
        """What is billed in a period, before steps."""
        for line in self._lines(period):
            found = self._component(line, period)
            if found is not None:
                if line.dimension is Dimension.FLAT:
                    self._flat_due.discard(line.reserved)
                yield self._item(line.category, *found, line.volume, line.volume)

    def _lines(self, period: Period) -> Iterator[_Line]:
        charged = period.volumes.keys() - {Quantity.RESERVATION_TIME}
        if charged and False in self._flat_due:
            yield _Line(Category.FIXED, Dimension.FLAT, Fraction(1), reserved=False)
        if Quantity.RESERVATION_TIME in period.volumes and True in self._flat_due:
            yield _Line(Category.RESERVATION, Dimension.FLAT, Fraction(1), reserved=True)
        for quantity, volume in period.volumes.items():
            yield _Line(*_BILLED[quantity], volume, quantity is Quantity.RESERVATION_TIME)

    def _component(
        self, line: _Line, period: Period
    ) -> tuple[TariffElement, PriceComponent] | None:
        for reservation in self._reservations if line.reserved else (None,):
            for element in self._tariff.elements:
                if element.reservation is not reservation:
                    continue
                for component in element.price_components:
                    if component.dimension is line.dimension and self._holds(element, period):
                        return element, component
        return None

    def _holds(self, element: TariffElement, period: Period) -> bool:
        asked = element.restrictions
        return (
            _from_until(period.energy_before_wh, asked.min_energy_wh, asked.max_energy_wh)
            and _from_until(period.elapsed_s, asked.min_duration_s, asked.max_duration_s)
            and _throughout(period.power, asked.min_power_w, asked.max_power_w)
            and _throughout(period.current, asked.min_current_ma, asked.max_current_ma)
            and time_holds(asked, period.start.astimezone(self._zone))
        )

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

    def round_up(self, priced: list[PricedPeriod], quantities: set[Quantity]) -> None:
        """Add to what is billed last of these quantities what its step demands on the total.

        The total is all that was used in the session, with what nothing prices: OCPI 2.2.1,
        11.4.2: "the total amount of a certain unit used during a session".
        """
        categories = {_BILLED[quantity][0]: quantity for quantity in quantities}
        items = [
            (number, place, item)
            for number, period in enumerate(priced)
            for place, item in enumerate(period.items)
            if item.category in categories and item.component.dimension is not Dimension.FLAT
        ]
        if not items or items[-1][2].component.step_size <= 0:
            return
        number, place, last = items[-1]
        quantity = categories[last.category]
        used = sum((p.period.volumes.get(quantity, Fraction(0)) for p in priced), Fraction(0))
        missing = -used % last.component.step_size
        if missing:
            rounded = self._item(
                last.category, last.element, last.component, last.volume, last.volume + missing
            )
            row = list(priced[number].items)
            row[place] = rounded
            priced[number] = replace(priced[number], items=tuple(row))


def _from_until(value: Fraction, low: int | None, high: int | None) -> bool:
    return (low is None or value >= low) and (high is None or value < high)


def _throughout(value: Bounds, low: int | None, high: int | None) -> bool:
    """Whether a bound holds in all of a period; one on what is not known does not."""
    if low is not None and (value.least is None or value.least < low):
        return False
    return high is None or (value.greatest is not None and value.greatest < high)
