"""Small whole values for tests: each has what must be there and takes what a test is about."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

import numpy as np
from hypothesis import settings

from voucher_grpc.domain.catalogue.conditions import HOURS_PER_WEEK
from voucher_grpc.domain.catalogue.product import (
    Benefit,
    EnergyBundle,
    Product,
    ProductState,
    Terms,
    Validity,
    ValidityPeriod,
)
from voucher_grpc.domain.offers.choices import Buyer, Ranking
from voucher_grpc.domain.offers.columns import Columns
from voucher_grpc.domain.offers.ranking import RankedBuyer, rank_all
from voucher_grpc.domain.passes.state import Balance, Pass
from voucher_grpc.domain.places.location import Location, VehicleProfile
from voucher_grpc.domain.pricing.tariff import Dimension, PriceComponent, Tariff, TariffElement
from voucher_grpc.domain.pricing.usual import PlacePrices, UsualSession
from voucher_grpc.domain.tendencies.demand import DemandPlace, Demands
from voucher_grpc.domain.tendencies.forecast import BLOCKS
from voucher_grpc.domain.tendencies.tendency import Session
from voucher_grpc.domain.tendencies.user_prices import UserPrices, constant, user_prices
from voucher_grpc.money import BASIS_POINTS, Money
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.steps import finished

# The same examples in each run, however slow the machine.
SPEC = settings(deadline=None, derandomize=True, max_examples=100)
THOROUGH = settings(SPEC, max_examples=400)

NOW = datetime(2026, 11, 16, 12, 0, tzinfo=UTC)  # a Monday
PLACE = PlaceKey("NO", "OSL", "home")


def nok(units: float) -> Money:
    """Money in NOK."""
    return Money(round(units * 1_000_000), "NOK")


def make_terms(
    product_id: str = "pass", benefit: Benefit | None = None, price: float = 49, **changes: Any
) -> Terms:
    """Terms of 30 days in Oslo's time."""
    values: dict[str, Any] = {
        "product_id": product_id,
        "display_name": product_id,
        "price": nok(price),
        "benefit": benefit or EnergyBundle(100_000),
        "validity": Validity(days=30),
        "time_zone": "Europe/Oslo",
    }
    return Terms(**{**values, **changes})


def make_pass(**changes: Any) -> Pass:
    """A pass that alice bought at NOW for 30 days."""
    values: dict[str, Any] = {
        "user_id": "alice",
        "pass_id": UUID(int=1),
        "request_id": UUID(int=2),
        "offer_digest": b"offer",
        "product_id": "pass",
        "product_revision": 1,
        "vehicle_id": "",
        "price": nok(49),
        "payment_reference": "pay-1",
        "purchase_time": NOW,
        "time_zone": "Europe/Oslo",
        "period": ValidityPeriod(NOW, NOW + timedelta(days=30)),
        "balance": Balance(energy_wh=100_000),
    }
    return Pass(**{**values, **changes})


def make_hold(**changes: Any) -> Pass:
    """A pass that is held for ten minutes."""
    hold: dict[str, Any] = {
        "payment_reference": "",
        "period": ValidityPeriod(None, None),
        "balance": Balance(),
        "ledger_entries": 0,
        "hold_expire_time": NOW + timedelta(minutes=10),
    }
    return make_pass(**{**hold, **changes})


def make_product(product_id: str = "pass", *args: Any, **changes: Any) -> Product:
    """An active product at revision 1."""
    return Product(
        make_terms(product_id, *args, **changes), 1, "etag", ProductState.ACTIVE, 0, NOW, "operator"
    )


def make_tariff(*elements: TariffElement, **changes: Any) -> Tariff:
    """A tariff in NOK."""
    return Tariff("NO", "OSL", "tariff", "NOK", elements, **changes)


def element(
    dimension: Dimension, price: float, vat: int | None = 0, step: int = 1, **changes: Any
) -> TariffElement:
    """An element with one component, its price in units."""
    rate = None if vat is None else Fraction(vat, BASIS_POINTS)
    component = PriceComponent(dimension, round(price * 1_000_000), rate, step)
    return TariffElement((component,), **changes)


def place_prices_of(*tariffs: Tariff, vat: int | None = None, power_w: int = 0) -> PlacePrices:
    """Prices of a place in Oslo: the first tariff always, those after it from their start."""
    rate = None if vat is None else Fraction(vat, BASIS_POINTS)
    always = datetime.min.replace(tzinfo=UTC)
    timeline = tuple((t.start_time or always, t) for t in tariffs)
    return PlacePrices(timeline, rate, power_w, "Europe/Oslo")


def paid(prices: PlacePrices, *sessions: UsualSession) -> UserPrices:
    """What a user of these sessions, each as likely, pays."""
    return finished(
        user_prices(
            prices, [(session, 1.0) for session in sessions], lambda kind: prices.price(kind, NOW)
        )
    )


def make_session(session_id: str = "s", **changes: Any) -> Session:
    """A session of 10 kWh in two hours at home in Oslo."""
    start = changes.pop("start_time", NOW - timedelta(days=10))
    values: dict[str, Any] = {
        "user_id": "alice",
        "session_id": session_id,
        "place": PLACE,
        "time_zone": "Europe/Oslo",
        "start_time": start,
        "end_time": start + timedelta(hours=2),
        "energy_wh": 10_000,
    }
    return Session(**{**values, **changes})


def make_demand(
    energy_wh: Sequence[float] = (100_000,),
    price_per_kwh: float | None = 5,
    *,
    session_energy_wh: float = 10_000,
    location: Location | None = None,
    hours: Mapping[int, float] | None = None,
    places: Sequence[DemandPlace] | None = None,
    silence_days: float = 1.0,
) -> Demands:
    """One user, scenarios of 30 days at one place; energy costs the same at all hours."""
    energy_kwh = np.array([energy_wh], dtype=np.float64) / 1000
    shares = np.full(HOURS_PER_WEEK, 1 / HOURS_PER_WEEK)
    if hours is not None:
        shares = np.zeros(HOURS_PER_WEEK)
        for hour, share in hours.items():
            shares[hour] = share
    prices = None
    if price_per_kwh is not None:
        prices = constant(price_per_kwh * 1e6)
    return Demands(
        energy_kwh=energy_kwh,
        sessions=energy_kwh * 1000 / session_energy_wh,
        profile=shares[None],
        block_factors=np.ones((1, energy_kwh.shape[1], BLOCKS)),
        session_wh=np.full((1, 5), session_energy_wh),
        dwell_h=np.array([2.0]),
        silence_days=np.array([silence_days]),
        hours=shares[None],
        places=[places or [DemandPlace(PLACE, 1.0, location, prices)]],
    )


def together(demands: Sequence[Demands]) -> Demands:
    """Users with as many scenarios, in one table."""
    arrays = [f.name for f in fields(Demands) if f.name != "places"]
    return Demands(
        **{name: np.concatenate([getattr(d, name) for d in demands]) for name in arrays},
        places=[places for d in demands for places in d.places],
    )


def rank(
    columns: Columns, demand: Demands | None, buyer: Buyer, now: datetime, max_offers: int
) -> Ranking:
    """The products to offer one user."""
    asking = RankedBuyer(None if demand is None else 0, buyer, max_offers)
    return rank_all(columns, demand, [asking], now)[0]


def make_buyer(**changes: Any) -> Buyer:
    """A buyer who has bought nothing."""
    values: dict[str, Any] = {
        "bought": (),
        "owned": {},
        "vehicle": VehicleProfile(),
        "sold_out": frozenset(),
    }
    return Buyer(**{**values, **changes})
