"""RequestOffers: many users are read, and their offers determined, signed and written, at once.

The answers are written here and not in each call, so that the same code runs for
all of them while it is in the processor's caches.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Generic, NamedTuple, TypeVar

import structlog

from voucher_grpc.domain.catalogue.product import Product, sale_end
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms, to_the_millisecond
from voucher_grpc.domain.offers.determine import (
    Determined,
    Locations,
    UserRequest,
    determine_all,
)
from voucher_grpc.domain.offers.knowledge import Knowledge
from voucher_grpc.domain.offers.reason_texts import choose_language
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.places.location import place_exists
from voucher_grpc.errors import Refusal
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.store.knowledge import Key, KnowledgeReader
from voucher_grpc.store.stored_places import location_key, location_not_found
from voucher_grpc.use_cases.authorization import AuthorizedRequest, authorize_result

log = structlog.get_logger(__name__)

Response = TypeVar("Response")
# Of a user, with the offers determined, the id of each with its end, and the language.
Encode = Callable[[str, Determined, Sequence[tuple[str, datetime]], str], Response]


class Answer(NamedTuple, Generic[Response]):
    """The offers for a user, determined at an instant, and the response that says so."""

    knowledge: Knowledge
    determined: Determined
    at: datetime
    response: Response


# After so many the event loop has a turn: others wait for it.
_USERS_AT_ONCE = 64


class RequestOffers(Generic[Response]):
    """Answers batches of requests for offers."""

    def __init__(
        self,
        reader: KnowledgeReader,
        clock: DatabaseClock,
        vat_rates: Mapping[str, int],
        signer: OfferSigner,
        offer_lifetime: timedelta,
        encode: Encode[Response],
        share: EventLoopShare,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._vat_rates = vat_rates
        self._signer = signer
        self._lifetime = offer_lifetime
        self._encode = encode
        self._share = share

    async def answer(
        self, authorized: Sequence[AuthorizedRequest]
    ) -> Sequence[Answer[Response] | BaseException]:
        """An answer for each, or its refusal."""
        requests = [one.request for one in authorized]
        read = await self._reader.read(
            [Key(request.user_id, request.vehicle_id) for request in requests],
            [request.place for request in requests if request.place is not None],
        )
        now = self._clock.now()
        results: list[Answer[Response] | BaseException | None] = []
        users: list[UserRequest] = []
        for one, known in zip(authorized, read.knowledge, strict=True):
            found = authorize_result(one, known)
            if isinstance(found, Knowledge):
                refused = _unknown_place(one.request, read.locations)
                if refused is None:
                    users.append(UserRequest(found, one.request))
                results.append(refused)
            else:
                results.append(found)
        answers = iter([answer async for answer in self._all_answers(users, read.locations, now)])
        return [next(answers) if result is None else result for result in results]

    async def _all_answers(
        self, users: Sequence[UserRequest], locations: Locations, now: datetime
    ) -> AsyncIterator[Answer[Response] | BaseException]:
        for start in range(0, len(users), _USERS_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            some = users[start : start + _USERS_AT_ONCE]
            for answer in await self._answers(some, locations, now):
                yield answer

    async def _answers(
        self, users: Sequence[UserRequest], locations: Locations, now: datetime
    ) -> Sequence[Answer[Response] | BaseException]:
        """All at once. Should one of them break the rules' assumptions, the others do not pay."""
        try:
            determined = await self._share.run(
                determine_all(users, locations, self._vat_rates, now)
            )
            return [
                found if isinstance(found, BaseException) else self._answer(user, found, now)
                for user, found in zip(users, determined, strict=True)
            ]
        except Exception as error:  # noqa: BLE001 - its caller gets it
            if len(users) == 1:
                return [error]
            log.warning("batch_failed", error=type(error).__name__, size=len(users))
            return [(await self._answers([user], locations, now))[0] for user in users]

    def _answer(self, user: UserRequest, found: Determined, now: datetime) -> Answer[Response]:
        knowledge, request = user
        language = choose_language(request.language, knowledge.settings.language)
        latest = to_the_millisecond(now + self._lifetime)
        offer_ids = [
            self._signed(knowledge.user_id, choice.product, latest)
            for choice in found.ranking.choices
        ]
        response = self._encode(knowledge.user_id, found, offer_ids, language)
        return Answer(knowledge, found, now, response)

    def _signed(self, user_id: str, product: Product, latest: datetime) -> tuple[str, datetime]:
        """(offer_id, when it expires): not later than the sale of the product ends."""
        terms = product.terms
        end = sale_end(terms)
        expire_time = latest if end is None else min(latest, to_the_millisecond(end))
        signed = OfferTerms(
            user_id,
            terms.product_id,
            product.revision,
            terms.price.micros,
            terms.price.currency_code,
            expire_time,
        )
        return self._signer.sign(signed), expire_time


def _unknown_place(request: OffersRequest, locations: Locations) -> Refusal | None:
    if request.place is None:
        return None
    location = locations.get(location_key(request.place))
    if location is None or not place_exists(location, request.place):
        return location_not_found(request.place[:3])
    return None
