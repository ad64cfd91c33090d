"""One flush of offers: many users are read, and their offers determined, at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from voucher_grpc.offers.determine import Asked, Determined, Locations, Request, determine_all
from voucher_grpc.offers.knowledge import Knowledge
from voucher_grpc.places.location import place_exists
from voucher_grpc.store.clock import DatabaseClock
from voucher_grpc.store.knowledge import Key, KnowledgeReader
from voucher_grpc.store.places import LocationCache, location_key, location_not_found
from voucher_grpc.wire.offers import OffersWanted

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """The offers for a user, determined at an instant and not signed yet."""

    knowledge: Knowledge
    determined: Determined
    at: datetime


class Offering:
    """Answers batches of requests for offers."""

    def __init__(
        self,
        reader: KnowledgeReader,
        locations: LocationCache,
        clock: DatabaseClock,
        vat_rates: Mapping[str, int],
    ) -> None:
        self._reader = reader
        self._locations = locations
        self._clock = clock
        self._vat_rates = vat_rates

    async def answer(self, wanted: Sequence[OffersWanted]) -> Sequence[Answer | BaseException]:
        """An answer for each, or its refusal."""
        found = await self._reader.read([Key(w.user_id, w.vehicle_id) for w in wanted])
        places = {
            location_key(place)
            for known in found
            if isinstance(known, Knowledge)
            for place, _ in known.places
        }
        places.update(location_key(w.place) for w in wanted if w.place is not None)
        locations = await self._locations.get(places)
        results: list[Answer | BaseException | None] = []
        asked: list[Asked] = []
        for want, known in zip(wanted, found, strict=True):
            refused = known if isinstance(known, BaseException) else _unknown_place(want, locations)
            results.append(refused)
            if refused is None and isinstance(known, Knowledge):
                asked.append(Asked(known, _request(want)))
        now = self._clock.now()
        determined = iter(zip(asked, self._determine(asked, locations, now), strict=True))
        return [result or _answer(*next(determined), now) for result in results]

    def _determine(
        self, asked: Sequence[Asked], locations: Locations, now: datetime
    ) -> Sequence[Determined | BaseException]:
        """All at once. Should one of them break the rules' assumptions, the others do not pay."""
        try:
            return determine_all(asked, locations, self._vat_rates, now)
        except Exception as error:  # noqa: BLE001 - who asked hears it
            if len(asked) == 1:
                return [error]
            log.warning("batch_failed", error=type(error).__name__, size=len(asked))
            return [self._determine([one], locations, now)[0] for one in asked]


def _answer(
    asked: Asked, found: Determined | BaseException, at: datetime
) -> Answer | BaseException:
    if isinstance(found, BaseException):
        return found
    return Answer(asked.knowledge, found, at)


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
