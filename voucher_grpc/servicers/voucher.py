"""VoucherService: both signals, and the passes that come of them."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import numpy as np

from voucher_grpc.catalogue.product import sale_end
from voucher_grpc.config import Config
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.metrics import Metrics
from voucher_grpc.money import Money
from voucher_grpc.offers.determine import Determined, Request, determine
from voucher_grpc.offers.knowledge import Knowledge
from voucher_grpc.offers.offer_id import OfferSigner, OfferTerms
from voucher_grpc.offers.ranking import Choice
from voucher_grpc.passes.purchase import Purchase
from voucher_grpc.places.location import place_exists
from voucher_grpc.store.batching import Batcher
from voucher_grpc.store.clock import DatabaseClock
from voucher_grpc.store.knowledge import Key
from voucher_grpc.store.passes import OwnedPass, PassStore
from voucher_grpc.store.places import LocationCache, location_key, location_not_found
from voucher_grpc.v1 import voucher_service_pb2 as pb
from voucher_grpc.v1 import voucher_service_pb2_grpc
from voucher_grpc.v1.offer_pb2 import Offer
from voucher_grpc.v1.pass_pb2 import Pass
from voucher_grpc.wire.checks import Checks
from voucher_grpc.wire.messages import money_message, timestamp
from voucher_grpc.wire.offers import (
    OffersWanted,
    empty_reason_number,
    fill_offer,
    offer_part,
    offers_wanted,
)
from voucher_grpc.wire.paging import instant_and_id, page_token, read_page_token
from voucher_grpc.wire.parts import RevisionParts
from voucher_grpc.wire.passes import fill_pass, pass_part, purchase_from_message

Context = grpc.aio.ServicerContext[Any, Any]
MAX_PAGE_SIZE = 1_000


class VoucherServicer(voucher_service_pb2_grpc.VoucherServiceServicer):
    """Sells passes."""

    def __init__(
        self,
        config: Config,
        signer: OfferSigner,
        clock: DatabaseClock,
        knowledge: Batcher[Key, Knowledge],
        purchases: Batcher[Purchase, OwnedPass],
        passes: PassStore,
        locations: LocationCache,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._signer = signer
        self._clock = clock
        self._knowledge = knowledge
        self._purchases = purchases
        self._passes = passes
        self._locations = locations
        self._metrics = metrics
        self._offer_parts = RevisionParts(offer_part)
        self._pass_parts = RevisionParts(pass_part)
        self._lifetime = timedelta(seconds=config.offer_lifetime_s)

    async def RequestOffers(
        self, request: pb.RequestOffersRequest, context: Context
    ) -> pb.RequestOffersResponse:
        wanted = offers_wanted(request)
        knowledge = await self._knowledge.submit(Key(wanted.user_id, wanted.vehicle_id))
        determined = await self._determine(wanted, knowledge)
        self._count(determined)
        response = pb.RequestOffersResponse(
            user_id=knowledge.user_id,
            empty_reason=empty_reason_number(determined.ranking.empty_reason),  # type: ignore[arg-type]
            pay_as_you_go=_pay_as_you_go(determined),
        )
        for choice in determined.ranking.choices:
            self._fill_offer(response.offers.add(), choice, knowledge.user_id)
        return response

    async def _determine(self, wanted: OffersWanted, knowledge: Knowledge) -> Determined:
        places = [place for place, _ in knowledge.places]
        if wanted.place is not None:
            places.append(wanted.place)
        locations = await self._locations.get(location_key(place) for place in places)
        if wanted.place is not None:
            location = locations[location_key(wanted.place)]
            if location is None or not place_exists(location, wanted.place):
                raise location_not_found(location_key(wanted.place))
        request = Request(
            vehicle=wanted.vehicle,
            place=wanted.place,
            country_code=wanted.country_code,
            currency_code=wanted.currency_code,
            max_offers=wanted.max_offers,
        )
        return determine(knowledge, request, locations, self._config.vat_rates, self._clock.now())

    def _fill_offer(self, message: Offer, choice: Choice, user_id: str) -> None:
        terms = choice.product.terms
        expire_time = self._expire_time(sale_end(terms))
        offer_id = self._signer.sign(
            OfferTerms(
                user_id,
                terms.product_id,
                choice.product.revision,
                terms.price.micros,
                terms.price.currency_code,
                expire_time,
            )
        )
        part = self._offer_parts.of(terms, choice.product.revision)
        fill_offer(message, part, choice, offer_id, expire_time)

    def _expire_time(self, sold_until: datetime | None) -> datetime:
        """The earlier of the offer's lifetime and the end of the sale, to the millisecond."""
        end = self._clock.now() + self._lifetime
        if sold_until is not None:
            end = min(end, sold_until)
        return end - timedelta(microseconds=end.microsecond % 1000)

    def _count(self, determined: Determined) -> None:
        ranking = determined.ranking
        for choice in ranking.choices:
            self._metrics.offers.labels("yes" if choice.recommended else "no").inc()
        if ranking.empty_reason is not None:
            self._metrics.empty_answers.labels(ranking.empty_reason).inc()

    async def PurchasePass(
        self, request: pb.PurchasePassRequest, context: Context
    ) -> pb.PurchasePassResponse:
        result = "OK"
        try:
            purchase = purchase_from_message(request, self._signer, self._clock.now())
            owned = await self._purchases.submit(purchase)
        except Refusal as refusal:
            result = refusal.reason
            raise
        finally:
            self._metrics.purchases.labels(result).inc()
        response = pb.PurchasePassResponse()
        self._fill_pass(getattr(response, "pass"), owned)
        return response

    def _fill_pass(self, message: Pass, owned: OwnedPass) -> None:
        part = self._pass_parts.of(owned.terms, owned.owned.product_revision)
        fill_pass(message, part, owned.owned, self._clock.now())

    async def GetPass(self, request: pb.GetPassRequest, context: Context) -> pb.GetPassResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        pass_id = checks.identifier("pass_id", request.pass_id, required=True)
        checks.done()
        try:
            owned = await self._passes.get(user_id, UUID(pass_id))
        except ValueError:
            raise Refusal(Reason.PASS_NOT_FOUND, "the user has no such pass") from None
        response = pb.GetPassResponse(read_time=timestamp(self._clock.now()))
        self._fill_pass(getattr(response, "pass"), owned)
        return response

    async def ListPasses(
        self, request: pb.ListPassesRequest, context: Context
    ) -> pb.ListPassesResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE) or 50
        checks.done()
        scope = ("ListPasses", user_id)
        last = read_page_token(request.page_token, scope, 2)
        after = instant_and_id(last) if last else None
        passes = await self._passes.page(user_id, after, size + 1)
        token = ""
        if len(passes) > size:
            end = passes[size - 1].owned
            token = page_token(scope, [end.purchase_time.isoformat(), str(end.pass_id)])
        response = pb.ListPassesResponse(next_page_token=token)
        for owned in passes[:size]:
            self._fill_pass(response.passes.add(), owned)
        return response


def _pay_as_you_go(determined: Determined) -> pb.PayAsYouGo | None:
    """What the offers are compared with; None where nothing is known."""
    demand, valuation = determined.demand, determined.ranking.valuation
    if demand is None or valuation is None:
        return None
    message = pb.PayAsYouGo(
        energy_wh_per_30_days=round(demand.mean_energy_wh),
        sessions_per_30_days=demand.mean_sessions,
        unpriced_share=valuation.unpriced_share,
    )
    if not np.isnan(valuation.price_per_kwh):
        currency = determined.currency_code
        cost = Money(round(valuation.cost_per_30_days), currency)
        price = Money(round(valuation.price_per_kwh), currency)
        message.cost_per_30_days.CopyFrom(money_message(cost))
        message.price_per_kwh.CopyFrom(money_message(price))
    return message
