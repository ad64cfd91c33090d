"""ExplainOffers: why products are offered or not, from what RequestOffers has determined."""

from collections.abc import Sequence
from typing import Any

from voucher_grpc.domain.offers.determine import buyer_of, columns_of
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.offers.verdicts import ProductVerdict, explain
from voucher_grpc.use_cases.request_offers import Answer


def explain_offers(
    request: OffersRequest, answer: Answer[Any], after: str, limit: int
) -> Sequence[ProductVerdict]:
    """The verdicts on up to `limit` products after one, in the order of the catalogue."""
    determined, knowledge = answer.determined, answer.knowledge
    columns = columns_of(knowledge.snapshot, determined.currency_code)
    rows = [row for row, product in enumerate(columns.products) if product.product_id > after]
    offered = frozenset(c.product.product_id for c in determined.ranking.choices)
    buyer = buyer_of(knowledge, request.vehicle)
    return explain(columns, rows[:limit], determined.demand, buyer, offered, answer.at)
