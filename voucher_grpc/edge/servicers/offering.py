"""One flush of offers: many users are read, their offers determined and written, at once.

The answers are written here and not in each call, so that the same code runs for
all of them while it is in the processor's caches.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog

from voucher_grpc.domain.catalogue.product import sale_end
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms, to_the_millisecond
from voucher_grpc.domain.offers.determine import (
    Asked,
    Determined,
    Locations,
    Request,
    determine_all,
)
from voucher_grpc.domain.offers.knowledge import Knowledge
from voucher_grpc.domain.offers.reason_texts import choose_language, writer
from voucher_grpc.domain.places.location import place_exists
from voucher_grpc.edge.servicers.coverage import covered
from voucher_grpc.edge.wire.encoding import Encoded
from voucher_grpc.edge.wire.offers import (
    OffersWanted,
    answer_bytes,
    offer_bytes,
    offer_part,
    pay_as_you_go_bytes,
)
from voucher_grpc.edge.wire.parts import RevisionParts
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.knowledge import Key, KnowledgeReader
from voucher_grpc.store.places import location_key, location_not_found

log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    """The offers for a user, determined at an instant; `encoded` is a RequestOffersResponse."""

    knowledge: Knowledge
    determined: Determined
    at: datetime
    encoded: Encoded


class _Asked(NamedTuple):
    """A request of a batch, by its number, with what is known of its user."""

    number: int
    wanted: OffersWanted
    knowledge: Knowledge


# After so many the event loop has a turn: others wait for it.
_USERS_AT_ONCE = 64


class Offering:
    """Answers batches of requests for offers."""

    def __init__(
        self,
        reader: KnowledgeReader,
        clock: DatabaseClock,
        vat_rates: Mapping[str, int],
        signer: OfferSigner,
        offer_lifetime: timedelta,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._vat_rates = vat_rates
        self._signer = signer
        self._lifetime = offer_lifetime
        self._parts = RevisionParts(offer_part)

    async def answer(self, wanted: Sequence[OffersWanted]) -> Sequence[Answer | BaseException]:
        """An answer for each, or its refusal."""
        read = await self._reader.read(
            [Key(w.user_id, w.vehicle_id) for w in wanted],
            [w.place for w in wanted if w.place is not None],
        )
        found = [covered(w, known) for w, known in zip(wanted, read.knowledge, strict=True)]
        locations = read.locations
        now = self._clock.now()
        results: dict[int, Answer | BaseException] = {}
        asked: list[_Asked] = []
        for number, (want, known) in enumerate(zip(wanted, found, strict=True)):
            refused = known if isinstance(known, BaseException) else _unknown_place(want, locations)
            if isinstance(known, Knowledge) and refused is None:
                asked.append(_Asked(number, want, known))
            elif refused is not None:
                results[number] = refused
        for start in range(0, len(asked), _USERS_AT_ONCE):
            part = asked[start : start + _USERS_AT_ONCE]
            for user, answer in zip(part, self._answers(part, locations, now), strict=True):
                results[user.number] = answer
            if start + _USERS_AT_ONCE < len(asked):
                await asyncio.sleep(0)
        return [results[number] for number in range(len(wanted))]

    def _answers(
        self, asked: Sequence[_Asked], locations: Locations, now: datetime
    ) -> Sequence[Answer | BaseException]:
        """All at once. Should one of them break the rules' assumptions, the others do not pay."""
        try:
            users = [Asked(user.knowledge, _request(user.wanted)) for user in asked]
            determined = determine_all(users, locations, self._vat_rates, now)
            return [
                found if isinstance(found, BaseException) else self._answer(user, found, now)
                for user, found in zip(asked, determined, strict=True)
            ]
        except Exception as error:  # noqa: BLE001 - who asked hears it
            if len(asked) == 1:
                return [error]
            log.warning("batch_failed", error=type(error).__name__, size=len(asked))
            return [self._answers([user], locations, now)[0] for user in asked]

    def _answer(self, asked: _Asked, found: Determined, now: datetime) -> Answer:
        ranking, knowledge = found.ranking, asked.knowledge
        language = choose_language(asked.wanted.language, knowledge.settings.language)
        words = writer(language, found.currency_code)
        latest = to_the_millisecond(now + self._lifetime)
        offers = []
        for choice in ranking.choices:
            product = choice.product
            terms, revision = product.terms, product.revision
            end = sale_end(terms)
            expire_time = latest if end is None else min(latest, to_the_millisecond(end))
            price = terms.price
            offer_id = self._signer.sign(
                OfferTerms(
                    knowledge.user_id,
                    terms.product_id,
                    revision,
                    price.micros,
                    price.currency_code,
                    expire_time,
                )
            )
            prepared = self._parts.of(terms, revision)
            offers.append(offer_bytes(prepared, choice, offer_id, expire_time, words))
        compared = pay_as_you_go(found)
        encoded = answer_bytes(knowledge.user_id, offers, ranking.empty_reason, compared)
        return Answer(knowledge, found, now, encoded)


def pay_as_you_go(determined: Determined) -> bytes | None:
    """What the offers are compared with, as a message; None where nothing is known."""
    known = determined.ranking.pay_as_you_go
    return None if known is None else pay_as_you_go_bytes(known, determined.currency_code)


def _unknown_place(wanted: OffersWanted, locations: Locations) -> BaseException | None:
    if wanted.place is None:
        return None
    location = locations.get(location_key(wanted.place))
    if location is None or not place_exists(location, wanted.place):
        return location_not_found(location_key(wanted.place))
    return None


def _request(wanted: OffersWanted) -> Request:
    return Request(
        vehicle=wanted.vehicle,
        place=wanted.place,
        country_code=wanted.country_code,
        currency_code=wanted.currency_code,
        max_offers=wanted.max_offers,
    )
