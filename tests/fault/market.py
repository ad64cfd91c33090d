"""The goods of a run on sale, and offers for them.

Most offers are signed here with the service's own key, so that there are enough of
them for every product and every lifetime; some are asked for at the service.
"""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random

from tests.conftest import OFFER_KEYS
from tests.fault.journal import OfferHeld
from tests.fault.plan import Goods
from tests.integration.shop import create
from voucher_grpc.client import Client
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms, offer_digest
from voucher_grpc.edge.wire.messages import instant_of, money_of
from voucher_grpc.v1.offer_pb2 import Offer

CURRENCY = "NOK"
LIFETIME_S = 900.0


def _signer(key_id: int, secret: bytes) -> OfferSigner:
    return OfferSigner({key_id: secret}, key_id)


class Market:
    """Offers of a run's goods."""

    def __init__(self, goods: Sequence[Goods]) -> None:
        self.goods = {g.product_id: g for g in goods}
        self.brief = [g for g in goods if g.ends_after_s is not None]
        self.open = [
            g
            for g in goods
            if g.stock is None and g.max_purchases is None and g.ends_after_s is None
        ]
        self.open_s = 0.0
        self.scarce = [g for g in goods if g.stock is not None]
        self.limited = [g for g in goods if g.max_purchases is not None]
        key_id, _, secret = OFFER_KEYS.partition(":")
        self._genuine = _signer(int(key_id), bytes.fromhex(secret))
        self._forger = _signer(int(key_id), b"not the secret of the service...")

    async def put_on_sale(self, target: str) -> None:
        """Tell the service of the goods, before anything breaks."""
        now = datetime.now(UTC)
        self.open_s = now.timestamp()
        async with Client(target) as client:
            for goods in self.goods.values():
                await create(client, goods.product_id, **goods.document(now))

    def offer(
        self, user_id: str, goods: Goods, lifetime_s: float = LIFETIME_S, *, forged: bool = False
    ) -> OfferHeld:
        """A fresh offer; one with a negative lifetime has expired."""
        expire_s = time.time() + lifetime_s
        if goods.ends_after_s is not None:
            # As the service does it: what would be over when it is bought is not sold.
            expire_s = min(expire_s, self.open_s + goods.ends_after_s)
        # An offer_id keeps milliseconds.
        expire_s = math.floor(expire_s * 1000) / 1000
        terms = OfferTerms(
            user_id=user_id,
            product_id=goods.product_id,
            product_revision=1,
            price_micros=goods.price_micros,
            currency_code=CURRENCY,
            expire_time=datetime.fromtimestamp(expire_s, UTC),
        )
        offer_id = (self._forger if forged else self._genuine).sign(terms)
        return OfferHeld(
            offer_id,
            offer_digest(offer_id),
            user_id,
            goods.product_id,
            1,
            goods.price_micros,
            expire_s,
            not forged,
        )

    def choice(self, random: Random, goods: Sequence[Goods] = ()) -> Goods:
        """Any of these; by default of those that never run out."""
        return random.choice(goods or self.open)


def held(user_id: str, offer: Offer) -> OfferHeld:
    """An offer as the service made it."""
    return OfferHeld(
        offer.offer_id,
        offer_digest(offer.offer_id),
        user_id,
        offer.product_id,
        offer.product_revision,
        money_of(offer.price).micros,
        instant_of(offer.expire_time).timestamp(),
    )
