"""Which products are offered, in which order, and why."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from voucher_grpc.catalogue.conditions import Restrictions
from voucher_grpc.catalogue.product import (
    EnergyBundle,
    FlatPeriod,
    Product,
    SessionBundle,
)
from voucher_grpc.offers.columns import Columns, Selection
from voucher_grpc.offers.demand import Demand
from voucher_grpc.offers.tendency import Vector
from voucher_grpc.offers.valuation import (
    PayAsYouGo,
    Valuation,
    Worth,
    value,
    vehicle_allowed,
)
from voucher_grpc.passes.purchase import Bought, limit_reached
from voucher_grpc.places.location import VehicleProfile

Flags: TypeAlias = npt.NDArray[np.bool_]


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
    pay_as_you_go: PayAsYouGo | None = None


@dataclass(frozen=True, slots=True)
class Buyer:
    """What decides which products a user can buy now and use at all."""

    bought: Sequence[Bought]
    owned_products: frozenset[str]
    vehicle: VehicleProfile
    sold_out: frozenset[str] = field(default_factory=frozenset)


# A pass that costs more than no pass ends a driver's trust: a month of it counts like
# the price of so many kWh (chosen in docs/evaluation.md). In energy, so that it serves
# any currency.
HARM_PRICE_KWH = 40.0


def adjusted_saving(valuation: Valuation) -> Vector:
    """Expected saving less the price of possible harm, micro-units; users by products.

    The price of harm is HARM_PRICE_KWH at the user's pay-as-you-go price, in the
    proportion of a life of less than 30 days, * probability of harm. A pass of more
    than 30 days is given by its 30 days: a quarter that saves 500 is not better than
    a month that saves 400.
    """
    selection = valuation.selection
    price = np.array([user.price_per_kwh for user in valuation.pay_as_you_go])
    adjusted: Vector = valuation.harm_probability * selection.least_period
    adjusted *= -HARM_PRICE_KWH * price[:, None]
    adjusted += valuation.expected_saving
    adjusted *= selection.per_period
    return adjusted


@dataclass(frozen=True, slots=True)
class Asking:
    """A user who is to be offered something; `demand` None where too little is known."""

    demand: Demand | None
    buyer: Buyer
    max_offers: int


def rank(
    columns: Columns,
    demand: Demand | None,
    buyer: Buyer,
    now: datetime,
    max_offers: int,
) -> Ranking:
    """The products to offer one user; see `rank_all`."""
    return rank_all(columns, [Asking(demand, buyer, max_offers)], now)[0]


# Numbers that a saving is kept for at once: what is worked on stays in the processor's cache.
_NUMBERS_AT_ONCE = 65_536


def rank_all(columns: Columns, asking: Sequence[Asking], now: datetime) -> list[Ranking]:
    """The products to offer each user, best first.

    Recommended ones (adjusted saving above zero) come first, by that figure. Without
    any the answer is one default product, and without one that can be bought, none.
    """
    on_sale = _on_sale(columns, now)
    if not len(columns) or (on_sale is not None and not on_sale.any()):
        return [Ranking((), EmptyReason.NOTHING_ON_SALE)] * len(asking)
    rankings: dict[int, Ranking] = {}
    alike: dict[tuple[int, int, int], list[int]] = {}
    closed = [_closed(columns, user.buyer, now) for user in asking]
    for number, user in enumerate(asking):
        if user.demand is None:
            rankings[number] = _without_best(columns, None, user, closed[number], on_sale)
            continue
        # Only those that a user could not buy can stand before the best ones that are left.
        wanted = columns.selection(user.max_offers + len(closed[number]))
        shape = (len(wanted), len(user.demand.weights), len(user.demand.session_energy_wh))
        alike.setdefault(shape, []).append(number)
    for (products, scenarios, _), numbers in alike.items():
        together = max(1, _NUMBERS_AT_ONCE // (products * scenarios))
        for start in range(0, len(numbers), together):
            part = numbers[start : start + together]
            wanted_most = max(asking[n].max_offers + len(closed[n]) for n in part)
            ranked = _rank_together(
                columns,
                columns.selection(wanted_most),
                [asking[n] for n in part],
                [closed[n] for n in part],
                on_sale,
                now,
            )
            rankings.update(zip(part, ranked, strict=True))
    return [rankings[number] for number in range(len(asking))]


def _on_sale(columns: Columns, now: datetime) -> Flags | None:
    """Which products are in their sale window; None if all always are."""
    if columns.always_on_sale:
        return None
    instant = now.timestamp()
    return (columns.sale_from <= instant) & (instant < columns.sale_until)


def obtainable(product: Product, buyer: Buyer, now: datetime) -> bool:
    """Whether stock, personal limit and ownership let the user buy it now.

    What the user owns and can still use is not sold a second time.
    """
    limit = product.terms.personal_limit
    return (
        product.product_id not in buyer.sold_out
        and product.product_id not in buyer.owned_products
        and (limit is None or not limit_reached(limit, product.product_id, buyer.bought, now))
    )


def _closed(columns: Columns, buyer: Buyer, now: datetime) -> frozenset[int]:
    """Rows of the products that the user cannot buy now, sale windows aside."""
    named = {bought.product_id for bought in buyer.bought}
    named |= buyer.owned_products
    named |= buyer.sold_out
    return frozenset(
        columns.row_of[product_id]
        for product_id in named
        if product_id in columns.row_of
        and not obtainable(columns.products[columns.row_of[product_id]], buyer, now)
    )


def _rank_together(
    columns: Columns,
    selection: Selection,
    asking: Sequence[Asking],
    closed: Sequence[frozenset[int]],
    on_sale: Flags | None,
    now: datetime,
) -> list[Ranking]:
    """Users whose demands have one shape, valued in one go."""
    demands = [user.demand for user in asking if user.demand is not None]
    valuation = value(columns, demands, [user.buyer.vehicle for user in asking], now, selection)
    adjusted = adjusted_saving(valuation)
    if on_sale is not None:
        adjusted[:, ~on_sale[selection.rows]] = -np.inf
    most = max(user.max_offers + len(rows) for user, rows in zip(asking, closed, strict=True))
    best = _best(adjusted, selection, most)
    rankings = []
    for number, (user, demand) in enumerate(zip(asking, demands, strict=True)):
        chosen = [row for row in best[number] if row not in closed[number]][: user.max_offers]
        view = UserView(columns, valuation, number, demand)
        if chosen:
            choices = tuple(_recommend(view, row) for row in chosen)
            rankings.append(Ranking(choices, None, view.pay_as_you_go))
        else:
            rankings.append(_without_best(columns, view, user, closed[number], on_sale))
    return rankings


@dataclass(frozen=True, slots=True)
class UserView:
    """One user's part of a valuation."""

    columns: Columns
    valuation: Valuation
    number: int
    demand: Demand

    @property
    def pay_as_you_go(self) -> PayAsYouGo:
        return self.valuation.pay_as_you_go[self.number]

    def worth(self, row: int) -> Worth:
        """What a product is worth to the user."""
        return self.valuation.worth(self.number, row)


def _best(adjusted: Vector, selection: Selection, most: int) -> list[list[int]]:
    """For each user the rows with an adjusted saving above zero, the greatest first, `most`
    of them or more.

    Those equal to a micro-unit keep the catalogue's order, so an answer is the
    same each time, whatever else is on sale: the last digits of floats depend on
    the array's size.
    """
    whole = np.rint(adjusted)
    least = np.ones(len(whole))
    if most < whole.shape[1]:
        kth = -np.partition(-whole, most - 1, axis=1)[:, most - 1]
        least = np.fmax(kth, 1.0)
    users, positions = np.nonzero(whole >= least[:, None])
    rows = selection.rows[positions]
    order = np.lexsort((rows, -whole[users, positions], users))
    best: list[list[int]] = [[] for _ in range(len(whole))]
    for user, row in zip(users[order].tolist(), rows[order].tolist(), strict=True):
        best[user].append(row)
    return best


def _without_best(
    columns: Columns,
    view: UserView | None,
    user: Asking,
    closed: frozenset[int],
    on_sale: Flags | None,
) -> Ranking:
    """One default product, the cheapest that can be bought and used, or why there is none."""
    known = None if view is None else view.pay_as_you_go
    for row in columns.default_rows:
        where = columns.wheres[columns.cells.where[columns.cell[row]]]
        if (
            row not in closed
            and (on_sale is None or on_sale[row])
            and vehicle_allowed(where, user.buyer.vehicle)
        ):
            return Ranking((_default_choice(columns.products[row], view, row),), None, known)
    on_offer = len(columns) if on_sale is None else int(on_sale.sum())
    taken = sum(1 for row in closed if on_sale is None or on_sale[row])
    reason = EmptyReason.NOTHING_FITS if on_offer > taken else EmptyReason.LIMITS_REACHED
    return Ranking((), reason, known)


def _default_choice(product: Product, view: UserView | None, row: int) -> Choice:
    if view is None:
        return Choice(product, False, None, None, (OfferReason(ReasonCode.USER_UNKNOWN, {}),))
    demand, worth = view.demand, view.worth(row)
    figures = {"energy_kwh_per_30_days": demand.mean_energy_wh / 1000}
    if math.isnan(worth.expected_saving):
        reason = OfferReason(ReasonCode.PRICE_UNKNOWN, figures)
        return Choice(product, False, None, None, (reason,))
    figures["cost_per_30_days"] = view.pay_as_you_go.cost_per_30_days / 1e6
    figures["silence_days"] = demand.silence_days
    reason = OfferReason(ReasonCode.NOTHING_PAYS, figures)
    break_even = _break_even(product, worth)
    return Choice(product, False, round(worth.expected_saving), break_even, (reason,))


def _recommend(view: UserView, row: int) -> Choice:
    product, worth = view.columns.products[row], view.worth(row)
    return Choice(
        product=product,
        recommended=True,
        expected_saving_micros=round(worth.expected_saving),
        break_even=_break_even(product, worth),
        reasons=tuple(_reasons(view, worth, row)),
    )


# Less than a micro-unit a kWh is the noise of floats, not a gain.
_LEAST_GAIN_MICROS_PER_KWH = 1.0


def _break_even(product: Product, worth: Worth) -> BreakEven | None:
    """Fee / gain per covered kWh, the test that drivers do by hand (docs/model.md)."""
    if not worth.gain_per_kwh >= _LEAST_GAIN_MICROS_PER_KWH:
        return None
    energy_wh = math.ceil(product.terms.price.micros / worth.gain_per_kwh * 1000)
    match product.terms.benefit:
        case SessionBundle(sessions):
            needed = math.ceil(energy_wh / (worth.covered_energy_wh / worth.covered_sessions))
            return BreakEven(sessions=needed) if needed <= sessions else None
        case EnergyBundle(bundle_wh) | FlatPeriod(bundle_wh):
            return BreakEven(energy_wh=energy_wh) if energy_wh <= bundle_wh else None
        case _:
            return BreakEven(energy_wh=energy_wh)


# A condition is worth mentioning when it leaves something out and the user's
# charging is mostly inside.
_MENTION_SHARE = 0.4


def _reasons(view: UserView, worth: Worth, row: int) -> list[OfferReason]:
    columns, demand = view.columns, view.demand
    terms = columns.products[row].terms
    reasons = [
        OfferReason(
            ReasonCode.SAVES_ON_USUAL_CHARGING,
            {
                "expected_saving": worth.expected_saving / 1e6,
                "energy_kwh_per_30_days": demand.mean_energy_wh / 1000,
                "cost_per_30_days": view.pay_as_you_go.cost_per_30_days / 1e6,
                "length_days": float(columns.length_days[row]),
                "silence_days": demand.silence_days,
            },
        )
    ]
    reasons += _hour_reasons(terms.conditions.any_of, worth.hours_share)
    places, selectors = worth.places_share, terms.conditions.selectors
    if (selectors.parties or selectors.locations) and places >= _MENTION_SHARE:
        reasons.append(OfferReason(ReasonCode.FITS_YOUR_PLACES, {"share_at_places": places}))
    match terms.benefit:
        case EnergyBundle(bundle_wh) | FlatPeriod(bundle_wh):
            energy_kwh = worth.covered_energy_wh / 1000
            figures = {"covered_energy_kwh": energy_kwh, "bundle_kwh": bundle_wh / 1000}
            reasons.append(OfferReason(ReasonCode.FITS_YOUR_ENERGY, figures))
        case SessionBundle(sessions):
            figures = {
                "covered_sessions": worth.covered_sessions,
                "bundle_sessions": float(sessions),
            }
            reasons.append(OfferReason(ReasonCode.FITS_YOUR_SESSIONS, figures))
    return reasons


def _hour_reasons(any_of: Sequence[Restrictions], share: float) -> list[OfferReason]:
    if not any_of or share < _MENTION_SHARE:
        return []
    has_times = any(r.start_minute is not None or r.end_minute is not None for r in any_of)
    code = ReasonCode.FITS_YOUR_HOURS if has_times else ReasonCode.FITS_YOUR_DAYS
    if has_times or any(r.day_of_week for r in any_of):
        return [OfferReason(code, {"share_in_window": share})]
    return []
