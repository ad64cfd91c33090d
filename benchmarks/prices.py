"""How many sessions the pricing engine prices in a second of CPU, as offers ask it to: split, each
period, and what each kind of pass takes off. Without gRPC and Postgres."""

import time
from datetime import UTC, datetime
from statistics import median

from benchmarks.world import ZONE, own_tariff, usual_tariff
from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.pricing.tariff import Dimension, PriceComponent, Tariff, TariffElement
from voucher_grpc.domain.pricing.usual import PlacePrices, UsualSession

_PRICES, _ROUNDS = 2_000, 5
_NOW = datetime(2026, 6, 2, 12, tzinfo=UTC)


def _windows() -> Tariff:
    """A price for each quarter of an hour."""
    elements = tuple(
        TariffElement(
            (PriceComponent(Dimension.ENERGY, 300_000 + 1_000 * quarter),),
            Restrictions(start_minute=15 * quarter, end_minute=15 * (quarter + 1) % 1_440),
        )
        for quarter in range(96)
    )
    return Tariff("NO", "AAA", "QUARTERS", "NOK", elements)


def prices_per_s() -> dict[str, float]:
    """By the shape of the tariff."""
    shapes = {
        "two windows": usual_tariff(),
        "tiers, steps, an hourly price, a limit": own_tariff("AAA"),
        "96 quarters of an hour": _windows(),
    }
    return {shape: round(_rate(tariff)) for shape, tariff in shapes.items()}


def _rate(tariff: Tariff) -> float:
    prices = PlacePrices(((_NOW, tariff),), None, 11_000, ZONE)
    kinds = [UsualSession(60 * n % 10_080, 8_000 + 13 * n, 28_800) for n in range(_PRICES)]
    rates = []
    for _ in range(_ROUNDS):
        began_s = time.process_time()
        for kind in kinds:
            prices.price(kind, _NOW)
        rates.append(_PRICES / (time.process_time() - began_s))
    return median(rates)
