"""A price as the document that people and other systems read: rounded, in units and kWh.

Every amount in it is rounded by itself, to a micro-unit (`voucher_grpc.money`); the total is
the rounded sum, not the sum of what was rounded.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from voucher_grpc.domain.pricing.amounts import Amount
from voucher_grpc.domain.pricing.charge import SECONDS_PER_HOUR, Quantity
from voucher_grpc.domain.pricing.engine import Category, ChargePrice, Item, PricedPeriod
from voucher_grpc.domain.pricing.remarks import Warned
from voucher_grpc.domain.pricing.tariff import PRICED_VOLUME
from voucher_grpc.money import MICROS, decimal_from_micros, round_half_away

_TOTALS = {
    "total_energy_cost": Category.ENERGY,
    "total_time_cost": Category.TIME,
    "total_parking_cost": Category.PARKING,
    "total_fixed_cost": Category.FIXED,
    "total_reservation_cost": Category.RESERVATION,
}


def bill_document(
    price: ChargePrice, warnings: Iterable[Warned] = (), *, credit: bool = False
) -> dict[str, Any]:
    """The totals by dimension, and each period; None where nothing was priced.

    Of a credit CDR the total is below zero and nothing else (OCPI 2.2.1, 10.3.1, `credit`).
    """
    items = [item for period in price.periods for item in period.items]
    billed = {item.category for item in items}
    total = Amount(-price.total.before_tax, -price.total.after_tax) if credit else price.total
    return {
        "currency": price.currency_code,
        "total_cost": _amount(total) if items or price.limit else None,
        **{
            name: _amount(price.totals[category]) if category in billed else None
            for name, category in _TOTALS.items()
        },
        "total_energy": _volume(price, Quantity.ENERGY, 1_000),
        "total_time": _volume(price, Quantity.TIME, SECONDS_PER_HOUR),
        "total_parking_time": _volume(price, Quantity.PARKING_TIME, SECONDS_PER_HOUR),
        "total_reservation_time": _volume(price, Quantity.RESERVATION_TIME, SECONDS_PER_HOUR),
        "limit": price.limit and price.limit.value,
        "warnings": [{"code": w.remark.value, "text": w.text} for w in warnings],
        "periods": [_period(period) for period in price.periods],
    }


def rounded(amount: Fraction) -> float:
    """Micro-units as units, rounded to a micro-unit."""
    return float(decimal_from_micros(round_half_away(amount)))


def _amount(amount: Amount) -> dict[str, float]:
    return {"excl_vat": rounded(amount.before_tax), "incl_vat": rounded(amount.after_tax)}


def _number(value: Fraction) -> float:
    return rounded(value * MICROS)


def _volume(price: ChargePrice, quantity: Quantity, unit: int) -> float:
    volumes = (p.period.volumes.get(quantity, Fraction(0)) for p in price.periods)
    return _number(sum(volumes, Fraction(0)) / unit)


def _period(priced: PricedPeriod) -> dict[str, Any]:
    return {
        "start_date_time": priced.period.start.isoformat().replace("+00:00", "Z"),
        "dimensions": [_item(item) for item in priced.items],
    }


def _item(item: Item) -> dict[str, Any]:
    unit = PRICED_VOLUME[item.component.dimension]
    rate = item.component.tax_rate
    return {
        "type": item.component.dimension.value,
        "reservation": item.category is Category.RESERVATION,
        "element": item.element.index,
        "volume": _number(item.volume / unit),
        "billed_volume": _number(item.billed_volume / unit),
        "price": rounded(Fraction(item.component.price_micros)),
        "vat": None if rate is None else _number(rate * 100),
        **_amount(item.amount),
    }
