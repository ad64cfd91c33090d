"""VoucherService: offers, purchases, and the passes that are bought."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import structlog

from voucher_grpc.access.principal import EVERYTHING, Reach, caller
from voucher_grpc.access.rates import Rates
from voucher_grpc.access.roles import Scope
from voucher_grpc.domain.offer_ids.signer import OfferSigner
from voucher_grpc.domain.offers.determine import Determined
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.offers.verdicts import ProductVerdict
from voucher_grpc.domain.passes.change import PassRequest
from voucher_grpc.domain.passes.state import PassWithTerms
from voucher_grpc.domain.personal_data import LedgerEntry
from voucher_grpc.edge.servicers.listing import Lists, Row, row
from voucher_grpc.edge.servicers.open_streams import OpenStreams
from voucher_grpc.edge.wire.checks import Checks
from voucher_grpc.edge.wire.encoding import Encoded
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.edge.wire.offers import (
    MAX_TAG_CHARS,
    batch_bytes,
    batch_requests,
    fill_explanation,
    offers_request,
    offers_request_at,
    pay_as_you_go_bytes,
    stream_bytes,
    stream_request,
)
from voucher_grpc.edge.wire.pages import Page
from voucher_grpc.edge.wire.paging import instant_and_id, number_of, read_page_token
from voucher_grpc.edge.wire.parts import RevisionParts
from voucher_grpc.edge.wire.passes import (
    cancellation_from_message,
    checked_pass_key,
    confirmation_from_message,
    fill_pass,
    ledger_entry_message,
    pass_key,
    pass_part,
    pass_uuid,
    purchase_from_message,
)
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.batching import Batcher
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.passes import PassStore
from voucher_grpc.store.slices import Slice
from voucher_grpc.telemetry.logs import LogRate, not_logged
from voucher_grpc.telemetry.metrics import Metrics
from voucher_grpc.use_cases.authorization import AuthorizedRequest, VehicleOwners, authorize_request
from voucher_grpc.use_cases.explain_offers import explain_offers
from voucher_grpc.use_cases.purchase_pass import with_verified_offer
from voucher_grpc.use_cases.request_offers import Answer
from voucher_grpc.v1 import voucher_service_pb2 as pb
from voucher_grpc.v1 import voucher_service_pb2_grpc
from voucher_grpc.v1.pass_pb2 import Pass

OffersAnswer = Answer[Encoded]
Context = grpc.aio.ServicerContext[Any, Any]
MAX_PAGE_SIZE = 1_000
# Each may be of another product revision, whose terms are read with it.
_PASSES_OF_A_SLICE = 20
# Requests of one stream that are worked on at a time.
MAX_IN_FLIGHT = 64
log = structlog.get_logger(__name__)


class VoucherServicer(voucher_service_pb2_grpc.VoucherServiceServicer):
    """Sells passes."""

    def __init__(
        self,
        signer: OfferSigner,
        clock: DatabaseClock,
        answers: Batcher[AuthorizedRequest, OffersAnswer],
        changes: Batcher[PassRequest, PassWithTerms],
        passes: PassStore,
        owners: VehicleOwners,
        rates: Rates,
        lists: Lists,
        streams: OpenStreams,
        metrics: Metrics,
    ) -> None:
        self._lists = lists
        self._owners = owners
        self._streams = streams
        self._rates = rates
        self._refused_rate = LogRate()
        self._signer = signer
        self._clock = clock
        self._answers = answers
        self._changes = changes
        self._passes = passes
        self._metrics = metrics
        self._offers_recommended = metrics.offers.labels("yes")
        self._offers_default = metrics.offers.labels("no")
        self._pass_parts = RevisionParts(pass_part)

    async def RequestOffers(
        self, request: pb.RequestOffersRequest, context: Context
    ) -> pb.RequestOffersResponse:
        remaining_s = context.time_remaining()
        self._answers.check_admission(remaining_s)
        answer = await self._answer(offers_request(request), remaining_s)
        return self._counted(answer)  # type: ignore[return-value]

    async def _answer(self, wanted: OffersRequest, remaining_s: float | None) -> OffersAnswer:
        """The offers for one request. Raises its refusal."""
        reach = caller().reach(Scope.OFFERS_READ)
        answer = await self._answers.submit(authorize_request(wanted, reach), remaining_s)
        self._seen(answer, reach)
        return answer

    def _seen(self, answer: OffersAnswer, reach: Reach) -> None:
        if reach is not EVERYTHING:
            self._owners.seen(answer.knowledge)

    def _counted(self, answer: OffersAnswer) -> Encoded:
        ranking = answer.determined.ranking
        if ranking.empty_reason is not None:
            self._metrics.empty_answers.labels(ranking.empty_reason).inc()
        elif ranking.choices[0].recommended:
            self._offers_recommended.inc(len(ranking.choices))
        else:
            self._offers_default.inc(len(ranking.choices))
        self._metrics.catalogue_version.set(answer.knowledge.snapshot.version)
        return answer.response

    async def BatchRequestOffers(
        self, request: pb.BatchRequestOffersRequest, context: Context
    ) -> pb.BatchRequestOffersResponse:
        wanted = batch_requests(request)
        # Each of its requests counts as a call; the first one has been counted.
        self._rates.take(caller(), len(wanted) - 1)
        found = await self._results(wanted, context.time_remaining())
        refusals = [refused for refused in found if isinstance(refused, Refusal)]
        # All of them in vain: then the call is, so that it is tried again as a whole.
        if len(refusals) == len(found) and all(r.retry_after_s is not None for r in refusals):
            raise refusals[0]
        for refused in refusals:
            self._refused("BatchRequestOffers", refused)
        return batch_bytes(found)  # type: ignore[return-value]

    async def _results(
        self, wanted: Sequence[OffersRequest | Refusal], remaining_s: float | None
    ) -> list[Encoded | Refusal]:
        """The offers for each, or why there are none: what fails one request stays its own."""
        reach = caller().reach(Scope.OFFERS_READ)
        coming = [w if isinstance(w, Refusal) else self._put(w, remaining_s, reach) for w in wanted]
        futures = [future for future in coming if not isinstance(future, Refusal)]
        found = iter(await asyncio.gather(*futures, return_exceptions=True))
        return [self._result(c if isinstance(c, Refusal) else next(found), reach) for c in coming]

    def _put(
        self, wanted: OffersRequest, remaining_s: float | None, reach: Reach
    ) -> asyncio.Future[OffersAnswer] | Refusal:
        try:
            return self._answers.put(authorize_request(wanted, reach), remaining_s)
        except Refusal as refusal:
            return refusal

    def _result(self, answer: OffersAnswer | BaseException, reach: Reach) -> Encoded | Refusal:
        """What became of one request of several."""
        if isinstance(answer, Answer):
            self._seen(answer, reach)
            return self._counted(answer)
        if isinstance(answer, Refusal):
            return answer
        log.error("offers_failed", exc_info=answer)
        return Refusal(Reason.INTERNAL, "a fault of the service; it has been logged")

    def _refused(self, method: str, refusal: Refusal) -> None:
        """One request of several is refused; the call itself succeeds, so it is counted here."""
        self._metrics.refusals.labels(method, refusal.reason).inc()
        held_back = self._refused_rate.passes()
        if held_back is not None:
            log.info(
                "refused",
                method=method,
                reason=refusal.reason,
                caller=caller().name,
                **not_logged(held_back),
            )

    async def StreamOffers(  # type: ignore[override]
        self, requests: AsyncIterator[pb.StreamOffersRequest], context: Context
    ) -> None:
        slots, writing = asyncio.Semaphore(MAX_IN_FLIGHT), asyncio.Lock()

        async def answer(request: pb.StreamOffersRequest) -> None:
            try:
                wanted = self._wanted_of_stream(request)
                remaining_s = context.time_remaining()
                [result] = await self._results([wanted], remaining_s)
                if isinstance(result, Refusal):
                    self._refused("StreamOffers", result)
                response = stream_bytes(request.tag[:MAX_TAG_CHARS], result)
                async with writing:
                    await context.write(response)
            finally:
                slots.release()

        failed: Refusal | None = None
        async with asyncio.TaskGroup() as group:
            await slots.acquire()
            try:
                async with self._streams.until_stopped():
                    async for request in requests:
                        group.create_task(answer(request))
                        await slots.acquire()
            except Refusal as refusal:
                # No message, no right any more, or a stop; what was taken is answered.
                failed = refusal
        if failed is not None:
            raise failed

    def _wanted_of_stream(self, request: pb.StreamOffersRequest) -> OffersRequest | Refusal:
        """A request of a stream, each of which counts as a call."""
        try:
            self._rates.take(caller())
        except Refusal as refusal:
            return refusal
        return stream_request(request)

    async def ExplainOffers(
        self, request: pb.ExplainOffersRequest, context: Context
    ) -> pb.ExplainOffersResponse:
        checks = Checks()
        wanted = offers_request_at(checks, "request.", request.request)
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE) or 100
        checks.done()
        scope = ("ExplainOffers", request.request.SerializeToString(deterministic=True).hex())
        last = read_page_token(request.page_token, scope, 1)
        answer = await self._answer(wanted, context.time_remaining())
        explained = explain_offers(wanted, answer, last[0] if last else "", size + 1)

        async def read(_last: Sequence[str] | None, _limit: int) -> Slice[ProductVerdict]:
            return Slice(explained, more=False)

        head = pb.ExplainOffersResponse(
            user_id=answer.knowledge.user_id,
            pay_as_you_go=_pay_as_you_go_message(answer.determined),
        )
        page = Page(
            pb.ExplainOffersResponse.DESCRIPTOR,
            "explanations",
            scope,
            size,
            head=head.SerializeToString(),
        )
        return await self._lists.answer(page, read, _explained_row, context)  # type: ignore[return-value]

    async def PurchasePass(
        self, request: pb.PurchasePassRequest, context: Context
    ) -> pb.PurchasePassResponse:
        try:
            self._changes.check_admission(context.time_remaining())
            # A payment is believed only from a caller that is trusted to assert payments.
            captured = request.payment.HasField("captured")
            reach = caller().reach(Scope.PAYMENTS_ASSERT if captured else Scope.PASSES_BUY)
            wanted = purchase_from_message(request)
            purchase = with_verified_offer(wanted, self._signer, self._clock.now())
            await self._owners.refuse_foreign_purchase(purchase, reach)
            owned = await self._changes.submit(purchase, context.time_remaining())
        except Refusal as refusal:
            self._metrics.purchases.labels(refusal.reason).inc()
            raise
        # A caller that has gone, or an internal error, counts neither as sold nor as refused.
        self._metrics.purchases.labels("OK").inc()
        response = pb.PurchasePassResponse()
        self._fill_pass(getattr(response, "pass"), owned)
        return response

    async def ConfirmPurchase(
        self, request: pb.ConfirmPurchaseRequest, context: Context
    ) -> pb.ConfirmPurchaseResponse:
        change = confirmation_from_message(request)
        owned = await self._changes.submit(change, context.time_remaining())
        response = pb.ConfirmPurchaseResponse()
        self._fill_pass(getattr(response, "pass"), owned)
        return response

    async def CancelPass(
        self, request: pb.CancelPassRequest, context: Context
    ) -> pb.CancelPassResponse:
        change = cancellation_from_message(request)
        owned = await self._changes.submit(change, context.time_remaining())
        response = pb.CancelPassResponse()
        self._fill_pass(getattr(response, "pass"), owned)
        return response

    def _fill_pass(self, message: Pass, owned: PassWithTerms) -> None:
        part = self._pass_parts.of(owned.terms, owned.owned.product_revision)
        fill_pass(message, part, owned.owned, owned.terms, self._clock.now())

    async def GetPass(self, request: pb.GetPassRequest, context: Context) -> pb.GetPassResponse:
        owned = await self._passes.get(*pass_key(request))
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
        start = instant_and_id(last) if last else None

        async def read(last: Sequence[str] | None, limit: int) -> Slice[PassWithTerms]:
            after = instant_and_id(last) if last else start
            limit = min(limit, _PASSES_OF_A_SLICE)
            passes = await self._passes.page(user_id, after, limit)
            return Slice(passes, more=len(passes) == limit)

        page = Page(pb.ListPassesResponse.DESCRIPTOR, "passes", scope, size)
        return await self._lists.answer(page, read, self._pass_row, context)  # type: ignore[return-value]

    async def ListLedgerEntries(
        self, request: pb.ListLedgerEntriesRequest, context: Context
    ) -> pb.ListLedgerEntriesResponse:
        checks = Checks()
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE) or 50
        user_id, name = checked_pass_key(checks, request)
        checks.done()
        pass_id = pass_uuid(name)
        scope = ("ListLedgerEntries", user_id, str(pass_id))
        start = number_of(read_page_token(request.page_token, scope, 1))

        async def read(last: Sequence[str] | None, limit: int) -> Slice[LedgerEntry]:
            after = number_of(last) if last else start
            entries = await self._passes.ledger(user_id, pass_id, after, limit)
            return Slice(entries, more=len(entries) == limit)

        page = Page(pb.ListLedgerEntriesResponse.DESCRIPTOR, "entries", scope, size)
        return await self._lists.answer(page, read, _entry_row, context)  # type: ignore[return-value]

    def _pass_row(self, found: PassWithTerms) -> Row:
        message, owned = Pass(), found.owned
        self._fill_pass(message, found)
        key = (owned.purchase_time.isoformat(), str(owned.pass_id))
        return row(key, message)


def _entry_row(entry: LedgerEntry) -> Row:
    return row((str(entry.entry_number),), ledger_entry_message(entry))


def _explained_row(explained: ProductVerdict) -> Row:
    message = pb.OfferExplanation()
    fill_explanation(message, explained)
    return row((explained.product.product_id,), message)


def _pay_as_you_go_message(determined: Determined) -> pb.PayAsYouGo | None:
    found = pay_as_you_go_bytes(determined)
    return None if found is None else pb.PayAsYouGo.FromString(found)
