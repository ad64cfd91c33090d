"""Which products are offered, in which order, and why."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from voucher_grpc.domain.catalogue.product import (
    Product,
)
from voucher_grpc.domain.offers.choices import Buyer, Choice, EmptyReason, Ranking
from voucher_grpc.domain.offers.columns import Columns, Selection, Size
from voucher_grpc.domain.offers.knowledge import ProfileType
from voucher_grpc.domain.offers.payments import vehicle_allowed
from voucher_grpc.domain.offers.reason_codes import ReasonCode
from voucher_grpc.domain.offers.reasons import (
    OfferReason,
    break_even_of,
    break_even_reason,
    reasons_for,
)
from voucher_grpc.domain.offers.valuation import (
    PayAsYouGo,
    ProductValue,
    Valuation,
    value,
)
from voucher_grpc.domain.passes.purchase import limit_reached
from voucher_grpc.domain.tendencies.demand import Demands
from voucher_grpc.domain.tendencies.tendency import Flags, Vector

# A pass that costs more than no pass ends a driver's trust: a month of it counts like
# the price of so many kWh (chosen in docs/evaluation.md). In energy, so that it serves
# any currency. For users of average price-mindedness.
HARM_PRICE_KWH = 40.0
NEUTRAL = 0.5
# Each of up to five passes bought takes away so much of what is left to full price-mindedness.
_SHOWN_BY_A_PASS = 0.1
_MOST_PASSES = 5
# A pass for fast charging that saves as much counts so much more for users who declared FAST.
FAST_WISH = 1.25


def price_mindedness(buyer: Buyer, payg: PayAsYouGo) -> float:
    """How much the user minds prices, 0 to 1, NEUTRAL where nothing says anything.

    Declared (CHEAP: 1), else learned: from the prices paid, by how much they lie
    below those of the same places at all hours alike, and from the passes bought.
    """
    if buyer.profile_type == ProfileType.CHEAP:
        return 1.0
    mean = payg.mean_price_per_kwh
    cheaper = 1 - payg.price_per_kwh / mean if mean > 0 else 0.0
    shown = min(1.0, max(0.0, NEUTRAL + cheaper))
    return 1 - (1 - shown) * (1 - _SHOWN_BY_A_PASS) ** min(len(buyer.bought), _MOST_PASSES)


def adjusted_saving(valuation: Valuation, buyers: Sequence[Buyer]) -> Vector:
    """Expected saving less the price of possible harm, micro-units; users by products.

    The price of harm is HARM_PRICE_KWH * (0.5 + price-mindedness) at the user's
    pay-as-you-go price, in the proportion of a life of less than 30 days, *
    probability of harm. A pass of more than 30 days is given by its 30 days: a
    quarter that saves 500 is not better than a month that saves 400. What is left
    above zero counts FAST_WISH times for a pass for fast charging, if the user
    declared that wish.
    """
    selection = valuation.selection
    price = np.array(
        [
            payg.price_per_kwh * (NEUTRAL + price_mindedness(buyer, payg))
            for buyer, payg in zip(buyers, valuation.pay_as_you_go, strict=True)
        ]
    )
    adjusted: Vector = valuation.harm_probability * selection.least_period
    adjusted *= -HARM_PRICE_KWH * price[:, None]
    adjusted += valuation.expected_saving
    adjusted *= selection.per_period
    fast = [n for n, buyer in enumerate(buyers) if buyer.profile_type == ProfileType.FAST]
    if fast:
        liked = np.where(valuation.columns.fast_cells[selection.cell], FAST_WISH, 1.0)
        adjusted[fast] = np.where(adjusted[fast] > 0, adjusted[fast] * liked, adjusted[fast])
    return adjusted


class RankedBuyer(NamedTuple):
    """A buyer with the user's row in the demands, None where too little is known."""

    row: int | None
    buyer: Buyer
    max_offers: int


# Numbers that a saving is kept for at once: what is worked on stays in the processor's cache.
_NUMBERS_AT_ONCE = 131_072


def rank_all(
    columns: Columns, demands: Demands | None, asking: Sequence[RankedBuyer], now: datetime
) -> list[Ranking]:
    """The products to offer each user, best first.

    Those whose demand is known come in the order of the demands. Recommended ones
    (adjusted saving above zero) come first, by that figure, without near-duplicates.
    Without any the answer is one default product, and without one that can be
    bought, none.
    """
    on_sale = _on_sale(columns, now)
    if not len(columns) or (on_sale is not None and not on_sale.any()):
        return [Ranking((), EmptyReason.NOTHING_ON_SALE)] * len(asking)
    closed = [_closed(columns, user.buyer, now) for user in asking]
    ranked: list[Ranking] = []
    known = [number for number, user in enumerate(asking) if user.row is not None]
    if demands is not None and known:
        # Only those that a user could not buy can stand before the best one of a cell.
        selection = columns.selection(1 + max(len(closed[number]) for number in known))
        scenarios = demands.energy_kwh.shape[1]
        together = max(1, _NUMBERS_AT_ONCE // (len(selection) * scenarios))
        for start in range(0, len(known), together):
            part = known[start : start + together]
            ranked += _rank_together(
                columns,
                selection,
                demands.part(start, start + len(part)),
                [asking[n] for n in part],
                [closed[n] for n in part],
                on_sale,
                now,
            )
    valued = iter(ranked)
    return [
        _without_best(columns, None, user, shut, on_sale) if user.row is None else next(valued)
        for user, shut in zip(asking, closed, strict=True)
    ]


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
        and product.product_id not in buyer.owned
        and (limit is None or not limit_reached(limit, product.product_id, buyer.bought, now))
    )


def _closed(columns: Columns, buyer: Buyer, now: datetime) -> frozenset[int]:
    """Rows of the products that the user cannot buy now, sale windows aside."""
    if not (buyer.bought or buyer.owned or buyer.sold_out):
        return frozenset()
    named = {bought.product_id for bought in buyer.bought}
    named.update(buyer.owned, buyer.sold_out)
    return frozenset(
        columns.row_of[product_id]
        for product_id in named
        if product_id in columns.row_of
        and not obtainable(columns.products[columns.row_of[product_id]], buyer, now)
    )


def _rank_together(
    columns: Columns,
    selection: Selection,
    demands: Demands,
    asking: Sequence[RankedBuyer],
    closed: Sequence[frozenset[int]],
    on_sale: Flags | None,
    now: datetime,
) -> list[Ranking]:
    """Users valued in one go."""
    buyers = [user.buyer for user in asking]
    vehicles, owned = [buyer.vehicle for buyer in buyers], [buyer.owned for buyer in buyers]
    valuation = value(columns, demands, vehicles, owned, now, selection)
    adjusted = adjusted_saving(valuation, buyers)
    if on_sale is not None:
        adjusted[:, ~on_sale[selection.rows]] = -np.inf
    for number, shut in enumerate(closed):
        for row in shut:
            position = selection.position.get(row)
            if position is not None:
                adjusted[number, position] = -np.inf
    chosen = _best(adjusted, selection, [user.max_offers for user in asking])
    product_values = iter(valuation.product_values(*_flat(chosen)))
    silences = demands.silence_days.tolist()
    rankings = []
    for number, (user, rows) in enumerate(zip(asking, chosen, strict=True)):
        payg = valuation.pay_as_you_go[number]
        view = UserView(columns, valuation, number, silences[number], payg)
        if rows:
            choices = tuple([_recommend(view, row, next(product_values)) for row in rows])
            rankings.append(Ranking(choices, None, view.pay_as_you_go))
        else:
            rankings.append(_without_best(columns, view, user, closed[number], on_sale))
    return rankings


def _flat(chosen: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """(users, rows), one after the other."""
    users = [user for user, rows in enumerate(chosen) for _ in rows]
    return users, [row for rows in chosen for row in rows]


class UserView(NamedTuple):
    """One user's part of a valuation."""

    columns: Columns
    valuation: Valuation
    number: int
    silence_days: float
    pay_as_you_go: PayAsYouGo

    @property
    def energy_kwh(self) -> float:
        """Expected in 30 days."""
        return self.pay_as_you_go.energy_kwh_per_30_days

    @property
    def cost(self) -> float:
        """Of 30 days without a pass, in units of the currency."""
        return self.pay_as_you_go.cost_per_30_days / 1e6


# Of so many of a user's best the wanted ones are chosen; rarely more are looked at.
_BEST_LOOKED_AT = 24


def _best(adjusted: Vector, selection: Selection, wanted: Sequence[int]) -> list[list[int]]:
    """For each user up to as many rows as wanted with an adjusted saving above zero, the
    greatest first, without near-duplicates (see `Size`).

    Those equal to a micro-unit keep the catalogue's order, so an answer is the
    same each time, whatever else is on sale: the last digits of floats depend on
    the array's size.
    """
    # Below zero exactly where a whole micro-unit is saved. (Of amounts above 10**11 micro-units
    # a float does not hold the tie, and equal ones may change places.)
    key = selection.tie - np.rint(adjusted)
    looked_at = key.shape[1]
    if looked_at > 2 * _BEST_LOOKED_AT:
        looked_at = _BEST_LOOKED_AT
        positions = np.argpartition(key, looked_at, axis=1)[:, :looked_at]
        order = np.argsort(np.take_along_axis(key, positions, axis=1), axis=1)
        positions = np.take_along_axis(positions, order, axis=1)
    else:
        positions = np.argsort(key, axis=1)
    paying = np.count_nonzero(key < 0, axis=1).tolist()
    best = []
    for user, (in_order, number) in enumerate(zip(positions.tolist(), wanted, strict=True)):
        chosen = _without_near_duplicates(in_order[: paying[user]], selection.sizes, number)
        if len(chosen) < number and paying[user] > looked_at:
            everything = np.argsort(key[user])[: paying[user]].tolist()
            chosen = _without_near_duplicates(everything, selection.sizes, number)
        best.append(selection.rows[chosen].tolist())
    return best


def _without_near_duplicates(
    positions: Sequence[int], sizes: Sequence[Size], wanted: int
) -> list[int]:
    """The first `wanted` of those in order that are not near one chosen before them, nor never
    better than one that came before them, chosen or not."""
    chosen: list[int] = []
    seen: dict[int, list[Size]] = {}
    near: dict[int, list[Size]] = {}
    for position in positions:
        size = sizes[position]
        before = seen.setdefault(size.family, [])
        if not any(other.is_never_worse(size) for other in before):
            listed = near.setdefault(size.family, [])
            if not any(other.is_near(size) for other in listed):
                listed.append(size)
                chosen.append(position)
                if len(chosen) == wanted:
                    break
        before.append(size)
    return chosen


def _without_best(
    columns: Columns,
    view: UserView | None,
    user: RankedBuyer,
    closed: frozenset[int],
    on_sale: Flags | None,
) -> Ranking:
    """One default product, the cheapest that can be bought and used, or why there is none."""
    known = None if view is None else view.pay_as_you_go
    for row in columns.default_rows:
        place_condition = columns.place_conditions[columns.cells.place_condition[columns.cell[row]]]
        if (
            row not in closed
            and (on_sale is None or on_sale[row])
            and vehicle_allowed(place_condition, user.buyer.vehicle)
        ):
            return Ranking((_default_choice(columns.products[row], view, row),), None, known)
    on_offer = len(columns) if on_sale is None else int(on_sale.sum())
    taken = sum(1 for row in closed if on_sale is None or on_sale[row])
    reason = EmptyReason.NOTHING_FITS if on_offer > taken else EmptyReason.LIMITS_REACHED
    return Ranking((), reason, known)


def _default_choice(product: Product, view: UserView | None, row: int) -> Choice:
    if view is None:
        reason = OfferReason(ReasonCode.USER_UNKNOWN)
        return Choice(product, False, None, None, None, (reason,))
    [product_value] = view.valuation.product_values([view.number], [row])
    if math.isnan(product_value.expected_saving):
        reason = OfferReason(ReasonCode.PRICE_UNKNOWN, (view.energy_kwh,))
        return Choice(product, False, None, None, None, (reason,))
    figures = (view.energy_kwh, view.cost, view.silence_days)
    reason = OfferReason(ReasonCode.NOTHING_PAYS, figures)
    break_even = break_even_of(product, product_value)
    return Choice(
        product,
        recommended=False,
        expected_saving_micros=_hundredths(product_value.expected_saving),
        saving_range_micros=(
            _hundredths(product_value.saving_low),
            _hundredths(product_value.saving_high),
        ),
        break_even=break_even,
        reasons=(reason, *break_even_reason(break_even)),
    )


def _recommend(view: UserView, row: int, product_value: ProductValue) -> Choice:
    product = view.columns.products[row]
    break_even = break_even_of(product, product_value)
    return Choice(
        product=product,
        recommended=True,
        expected_saving_micros=_hundredths(product_value.expected_saving),
        saving_range_micros=(
            _hundredths(product_value.saving_low),
            _hundredths(product_value.saving_high),
        ),
        break_even=break_even,
        reasons=tuple(
            reasons_for(
                view.columns, row, product_value, break_even, view.pay_as_you_go, view.silence_days
            )
        ),
    )


def _hundredths(micros: float) -> int:
    """What is expected, in hundredths of the currency's unit: more digits would say nothing."""
    return round(micros / 10_000) * 10_000
