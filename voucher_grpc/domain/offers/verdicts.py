"""Why each product of the catalogue is offered to a user or not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from voucher_grpc.domain.catalogue.product import Product
from voucher_grpc.domain.offers.choices import Buyer
from voucher_grpc.domain.offers.columns import Columns
from voucher_grpc.domain.offers.payments import vehicle_allowed
from voucher_grpc.domain.offers.ranking import adjusted_saving
from voucher_grpc.domain.offers.valuation import ProductValue, value
from voucher_grpc.domain.passes.purchase import limit_reached
from voucher_grpc.domain.tendencies.demand import Demands


class Verdict(StrEnum):
    """What became of a product; the same list as OfferVerdict in voucher_service.proto."""

    OFFERED = "OFFERED"
    NOT_ON_SALE = "NOT_ON_SALE"
    SOLD_OUT = "SOLD_OUT"
    PERSONAL_LIMIT_REACHED = "PERSONAL_LIMIT_REACHED"
    ALREADY_OWNED = "ALREADY_OWNED"
    VEHICLE_NOT_ALLOWED = "VEHICLE_NOT_ALLOWED"
    USER_UNKNOWN = "USER_UNKNOWN"
    PRICE_UNKNOWN = "PRICE_UNKNOWN"
    NO_COVERED_CHARGING = "NO_COVERED_CHARGING"
    DOES_NOT_PAY = "DOES_NOT_PAY"
    RISK_TOO_HIGH = "RISK_TOO_HIGH"
    BETTER_OFFERS = "BETTER_OFFERS"
    BETTER_SIZE_OFFERED = "BETTER_SIZE_OFFERED"


@dataclass(frozen=True, slots=True)
class ProductVerdict:
    """What became of a product; money in micro-units, None where nothing is known."""

    product: Product
    verdict: Verdict
    product_value: ProductValue | None
    adjusted_saving: float | None


def explain(
    columns: Columns,
    rows: Sequence[int],
    demand: Demands | None,
    buyer: Buyer,
    offered: frozenset[str],
    now: datetime,
) -> list[ProductVerdict]:
    """The verdict on the products in some rows of the catalogue.

    `offered` are the products that `rank` chose for the same user at the same
    instant: what pays and is not among them had better ones before it.
    """
    if demand is None:
        return [
            ProductVerdict(
                columns.products[row],
                _closed(columns, row, buyer, offered, now) or Verdict.USER_UNKNOWN,
                None,
                None,
            )
            for row in rows
        ]
    valuation = value(columns, demand, [buyer.vehicle], [buyer.owned], now)
    adjusted = adjusted_saving(valuation, [buyer])
    families = {columns.family.item(columns.row_of[product_id]) for product_id in offered}
    explained = []
    for row, product_value in zip(
        rows, valuation.product_values([0] * len(rows), rows), strict=True
    ):
        saving = adjusted.item(0, valuation.selection.position[row])
        verdict = _closed(columns, row, buyer, offered, now) or _judged(product_value, saving)
        if verdict is Verdict.BETTER_OFFERS and columns.family.item(row) in families:
            verdict = Verdict.BETTER_SIZE_OFFERED
        explained.append(ProductVerdict(columns.products[row], verdict, product_value, saving))
    return explained


def _closed(
    columns: Columns, row: int, buyer: Buyer, offered: frozenset[str], now: datetime
) -> Verdict | None:
    """Whether the product is offered, or cannot be bought or used, whatever it is worth."""
    product = columns.products[row]
    product_id, limit = product.product_id, product.terms.personal_limit
    if product_id in offered:
        return Verdict.OFFERED
    if not columns.sale_from[row] <= now.timestamp() < columns.sale_until[row]:
        return Verdict.NOT_ON_SALE
    if product_id in buyer.sold_out:
        return Verdict.SOLD_OUT
    if limit is not None and limit_reached(limit, product_id, buyer.bought, now):
        return Verdict.PERSONAL_LIMIT_REACHED
    if product_id in buyer.owned:
        return Verdict.ALREADY_OWNED
    place_condition = columns.place_conditions[columns.cells.place_condition[columns.cell[row]]]
    if not vehicle_allowed(place_condition, buyer.vehicle):
        return Verdict.VEHICLE_NOT_ALLOWED
    return None


def _judged(product_value: ProductValue, adjusted: float) -> Verdict:
    if math.isnan(product_value.expected_saving):
        return Verdict.PRICE_UNKNOWN
    if not product_value.covered_energy_wh > 0:
        return Verdict.NO_COVERED_CHARGING
    # As `rank` has it: to a micro-unit.
    if round(adjusted) > 0:
        return Verdict.BETTER_OFFERS
    return (
        Verdict.RISK_TOO_HIGH if round(product_value.expected_saving) > 0 else Verdict.DOES_NOT_PAY
    )
