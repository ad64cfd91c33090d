"""Which products are offered, in which order, and why."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np

from voucher_grpc.catalogue.product import (
    EnergyBundle,
    FlatPeriod,
    Product,
    SessionBundle,
)
from voucher_grpc.offers.columns import Columns, Integers
from voucher_grpc.offers.demand import Demand
from voucher_grpc.offers.tendency import PERIOD_DAYS, Vector
from voucher_grpc.offers.valuation import Valuation, value, vehicle_allowed
from voucher_grpc.passes.purchase import Bought, limit_reached
from voucher_grpc.places.location import VehicleProfile


class ReasonCode(StrEnum):
    """Why something is offered; the same list as OfferReasonCode in offer.proto."""

    SAVES_ON_USUAL_CHARGING = "SAVES_ON_USUAL_CHARGING"
    FITS_YOUR_HOURS = "FITS_YOUR_HOURS"
    FITS_YOUR_DAYS = "FITS_YOUR_DAYS"
    FITS_YOUR_PLACES = "FITS_YOUR_PLACES"
    FITS_YOUR_ENERGY = "FITS_YOUR_ENERGY"
    FITS_YOUR_SESSIONS = "FITS_YOUR_SESSIONS"
    NOTHING_PAYS = "NOTHING_PAYS"
    USER_UNKNOWN = "USER_UNKNOWN"
    PRICE_UNKNOWN = "PRICE_UNKNOWN"


class EmptyReason(StrEnum):
    """Why no offer can be made."""

    NOTHING_ON_SALE = "NOTHING_ON_SALE"
    LIMITS_REACHED = "LIMITS_REACHED"
    NOTHING_FITS = "NOTHING_FITS"


@dataclass(frozen=True, slots=True)
class OfferReason:
    """A reason as data; `voucher_grpc.offers.explanation` puts it into words."""

    code: ReasonCode
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From when on a pass pays, over its life; None where the measure does not apply."""

    energy_wh: int | None = None
    sessions: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A product chosen for a user; money in micro-units, None where nothing is known."""

    product: Product
    recommended: bool
    expected_saving_micros: int | None
    break_even: BreakEven | None
    reasons: Sequence[OfferReason]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The choices, best first, or why there is none."""

    choices: Sequence[Choice]
    empty_reason: EmptyReason | None = None
    valuation: Valuation | None = None


@dataclass(frozen=True, slots=True)
class Buyer:
    """What decides which products a user can buy now and use at all."""

    bought: Sequence[Bought]
    owned_products: frozenset[str]
    vehicle: VehicleProfile
    sold_out: frozenset[str] = field(default_factory=frozenset)


# A gamble must promise more than a sure thing: the mean shortfall of the worse
# scenarios counts this often against the expected saving.
RISK_AVERSION = 0.5


def obtainable(product: Product, buyer: Buyer, now: datetime) -> bool:
    """Whether stock, personal limit, sale window and ownership let the user buy it now.

    What the user owns and can still use is not sold a second time.
    """
    limit = product.terms.personal_limit
    return (
        product.product_id not in buyer.sold_out
        and product.product_id not in buyer.owned_products
        and (limit is None or not limit_reached(limit, product.product_id, buyer.bought, now))
    )


def rank(
    columns: Columns,
    demand: Demand | None,
    buyer: Buyer,
    now: datetime,
    max_offers: int,
) -> Ranking:
    """The products to offer, best first.

    Recommended ones (expected saving minus risk above zero) come first, by that
    figure. Passes of more than 30 days are compared by what they save in 30 days:
    a quarter that saves 500 is not better than a month that saves 400. Without
    any the answer is one default product, and without one that can be bought, none.
    """
    instant = now.timestamp()
    open_now = (columns.sale_from <= instant) & (instant < columns.sale_until)
    on_offer = np.flatnonzero(open_now)
    if not on_offer.size:
        return Ranking((), EmptyReason.NOTHING_ON_SALE)

    def can_buy(index: int) -> bool:
        return obtainable(columns.products[index], buyer, now)

    valuation = None
    if demand is not None:
        valuation = value(columns, demand, buyer.vehicle, now)
        adjusted = valuation.expected_saving - RISK_AVERSION * valuation.risk
        adjusted *= PERIOD_DAYS / np.maximum(PERIOD_DAYS, columns.length_days)
        adjusted[~open_now] = -np.inf
        best = _best(adjusted, can_buy, max_offers)
        if best:
            return Ranking(
                tuple(_recommend(columns, valuation, demand, i) for i in best), None, valuation
            )
    default = _default(columns, on_offer, buyer, can_buy)
    if default is None:
        obtainable_any = any(can_buy(index) for index in on_offer.tolist())
        reason = EmptyReason.NOTHING_FITS if obtainable_any else EmptyReason.LIMITS_REACHED
        return Ranking((), reason, valuation)
    return Ranking((_default_choice(columns, valuation, demand, default),), None, valuation)


def _best(adjusted: Vector, can_buy: Callable[[int], bool], max_offers: int) -> list[int]:
    """Indices with an adjusted saving above zero, the greatest first.

    Only as many as are wanted are asked whether they can be bought. Those equal
    to a micro-unit keep the catalogue's order, so an answer is the same each time,
    whatever else is on sale: the last digits of floats depend on the array's size.
    """
    chosen: list[int] = []
    whole = np.rint(np.nan_to_num(adjusted, nan=-np.inf))
    for index in np.argsort(-whole, kind="stable"):
        if not whole[index] > 0 or len(chosen) == max_offers:
            break
        if can_buy(int(index)):
            chosen.append(int(index))
    return chosen


def _default(
    columns: Columns, on_offer: Integers, buyer: Buyer, can_buy: Callable[[int], bool]
) -> int | None:
    """The default product that can be bought and used, the cheapest first."""
    candidates = [
        index
        for index in on_offer.tolist()
        if columns.products[index].terms.default_offer
        and vehicle_allowed(columns.wheres[columns.where_index[index]], buyer.vehicle)
        and can_buy(index)
    ]
    return min(candidates, key=lambda index: (columns.price[index], index), default=None)


def _default_choice(
    columns: Columns, valuation: Valuation | None, demand: Demand | None, index: int
) -> Choice:
    product = columns.products[index]
    if valuation is None or demand is None:
        return Choice(product, False, None, None, (OfferReason(ReasonCode.USER_UNKNOWN, {}),))
    if np.isnan(valuation.expected_saving[index]):
        figures = {"energy_kwh_per_30_days": demand.mean_energy_wh / 1000}
        reason = OfferReason(ReasonCode.PRICE_UNKNOWN, figures)
        return Choice(product, False, None, None, (reason,))
    saving = float(valuation.expected_saving[index])
    reason = OfferReason(
        ReasonCode.NOTHING_PAYS,
        {
            "energy_kwh_per_30_days": demand.mean_energy_wh / 1000,
            "cost_per_30_days": valuation.cost_per_30_days / 1e6,
            "silence_days": demand.silence_days,
        },
    )
    break_even = _break_even(columns, valuation, index)
    return Choice(product, False, round(saving), break_even, (reason,))


def _recommend(columns: Columns, valuation: Valuation, demand: Demand, index: int) -> Choice:
    return Choice(
        product=columns.products[index],
        recommended=True,
        expected_saving_micros=round(float(valuation.expected_saving[index])),
        break_even=_break_even(columns, valuation, index),
        reasons=tuple(_reasons(columns, valuation, demand, index)),
    )


# Less than a micro-unit a kWh is the noise of floats, not a gain.
_LEAST_GAIN_MICROS_PER_KWH = 1.0


def _break_even(columns: Columns, valuation: Valuation, index: int) -> BreakEven | None:
    """Fee / gain per covered kWh, the test that drivers do by hand (docs/model.md)."""
    gain = float(valuation.gain_per_kwh[index])
    benefit = columns.products[index].terms.benefit
    if not gain >= _LEAST_GAIN_MICROS_PER_KWH:
        return None
    energy_wh = int(np.ceil(float(columns.price[index]) / gain * 1000))
    match benefit:
        case SessionBundle(sessions):
            per_session = valuation.covered_energy_wh[index] / valuation.covered_sessions[index]
            needed = int(np.ceil(energy_wh / float(per_session)))
            return BreakEven(sessions=needed) if needed <= sessions else None
        case EnergyBundle(bundle_wh) | FlatPeriod(bundle_wh):
            return BreakEven(energy_wh=energy_wh) if energy_wh <= bundle_wh else None
        case _:
            return BreakEven(energy_wh=energy_wh)


# A condition is worth mentioning when it leaves something out and the user's
# charging is mostly inside.
_MENTION_SHARE = 0.4


def _reasons(
    columns: Columns, valuation: Valuation, demand: Demand, index: int
) -> list[OfferReason]:
    reasons = [
        OfferReason(
            ReasonCode.SAVES_ON_USUAL_CHARGING,
            {
                "expected_saving": float(valuation.expected_saving[index]) / 1e6,
                "energy_kwh_per_30_days": demand.mean_energy_wh / 1000,
                "cost_per_30_days": valuation.cost_per_30_days / 1e6,
                "length_days": float(columns.length_days[index]),
                "silence_days": demand.silence_days,
            },
        )
    ]
    reasons += _hour_reasons(columns, valuation, index)
    places = float(valuation.places_share[index])
    selectors = columns.wheres[columns.where_index[index]].selectors
    if (selectors.parties or selectors.locations) and places >= _MENTION_SHARE:
        reasons.append(OfferReason(ReasonCode.FITS_YOUR_PLACES, {"share_at_places": places}))
    energy_kwh = float(valuation.covered_energy_wh[index]) / 1000
    match columns.products[index].terms.benefit:
        case EnergyBundle(bundle_wh) | FlatPeriod(bundle_wh):
            figures = {"covered_energy_kwh": energy_kwh, "bundle_kwh": bundle_wh / 1000}
            reasons.append(OfferReason(ReasonCode.FITS_YOUR_ENERGY, figures))
        case SessionBundle(sessions):
            covered = float(valuation.covered_sessions[index])
            figures = {"covered_sessions": covered, "bundle_sessions": float(sessions)}
            reasons.append(OfferReason(ReasonCode.FITS_YOUR_SESSIONS, figures))
    return reasons


def _hour_reasons(columns: Columns, valuation: Valuation, index: int) -> list[OfferReason]:
    any_of = columns.products[index].terms.conditions.any_of
    share = float(valuation.hours_share[index])
    if not any_of or share < _MENTION_SHARE:
        return []
    has_times = any(r.start_minute is not None or r.end_minute is not None for r in any_of)
    code = ReasonCode.FITS_YOUR_HOURS if has_times else ReasonCode.FITS_YOUR_DAYS
    if has_times or any(r.day_of_week for r in any_of):
        return [OfferReason(code, {"share_in_window": share})]
    return []
