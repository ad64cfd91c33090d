"""What the service takes at its bounds can also be valued, ranked, told and sent."""

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.plain import offer_message
from tests.unit.builders import (
    NOW,
    PLACE,
    THOROUGH,
    element,
    make_product,
    make_session,
    make_tariff,
)
from tests.unit.test_ranking import benefits, conditions
from voucher_grpc.domain.catalogue.product import Product, Validity
from voucher_grpc.domain.offers.determine import determine
from voucher_grpc.domain.offers.knowledge import Knowledge, UserSettings
from voucher_grpc.domain.offers.reason_texts import in_words, writer
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.offers.snapshot import build_snapshot
from voucher_grpc.domain.pricing.tariff import Dimension, Tariff
from voucher_grpc.domain.tendencies.tendency import Session, rebuild
from voucher_grpc.edge.wire.offers import offer_bytes, offer_part, pay_as_you_go_bytes
from voucher_grpc.money import Money
from voucher_grpc.v1.offer_pb2 import Offer

prices = st.sampled_from([0, 0.000001, 4, 1_000_000])
tariffs = st.lists(
    st.builds(element, st.sampled_from(list(Dimension)), prices, st.sampled_from([0, 10_000])),
    min_size=1,
    max_size=4,
).map(lambda elements: make_tariff(*elements, default_for_country=True))


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """None to ten MWh, in no time or in a month, now or long ago."""
    start = NOW - timedelta(days=draw(st.sampled_from([-1, 0, 1, 400, 5_800])))
    length = draw(st.sampled_from([None, timedelta(0), timedelta(days=31)]))
    return make_session(
        start_time=start,
        end_time=None if length is None else start + length,
        energy_wh=draw(st.sampled_from([0, 0, 1, 10_000, 10_000_000])),
    )


@st.composite
def products(draw: st.DrawFn) -> Product:
    """Free or a million, for a day or ten years."""
    return make_product(
        draw(st.sampled_from("abc")),
        draw(benefits),
        price=draw(st.sampled_from([0, 0.01, 49, 1_000_000])),
        validity=draw(
            st.sampled_from([Validity(days=1), Validity(days=3660), Validity(months=120)])
        ),
        conditions=draw(conditions),
        default_offer=draw(st.booleans()),
    )


def knowledge(items: list[Session], on_sale: list[Product], tariff: Tariff) -> Knowledge:
    values: dict[str, Any] = {
        "user_id": "alice",
        "settings": UserSettings(currency_code="NOK"),
        "vehicle": None,
        "tendency": rebuild(items),
        "profile_type": "",
        "places": [(PLACE, 1.0)],
        "bought": (),
        "owned": {},
        "sold_out": frozenset(),
        "snapshot": build_snapshot(1, on_sale, [tariff]),
    }
    return Knowledge(**values)


@THOROUGH
@given(
    st.lists(sessions(), min_size=3, max_size=8),
    st.lists(products(), max_size=4, unique_by=lambda p: p.product_id),
    tariffs,
)
def test_extreme_users_tariffs_and_products_make_an_answer(
    items: list[Session], on_sale: list[Product], tariff: Tariff
) -> None:
    """An offer or a reason why there is none, in words and as a message, without any warning."""
    request = OffersRequest(currency_code="NOK", max_offers=20)
    found = determine(knowledge(items, on_sale, tariff), request, {}, {}, NOW)
    assert bool(found.ranking.choices) == (found.ranking.empty_reason is None)
    pay_as_you_go_bytes(found)
    for choice in found.ranking.choices:
        part = offer_part(choice.product.terms, 1)
        message = Offer.FromString(offer_bytes(part, choice, "offer", NOW, writer("en", "NOK")))
        # As bytes it is what it would be field by field.
        assert offer_message(choice, "offer", NOW) == message
        assert Money(message.price.units * 10**6 + message.price.nanos // 1000, "NOK") == (
            choice.product.terms.price
        )
        assert all("nan" not in in_words(reason, "NOK") for reason in choice.reasons)
