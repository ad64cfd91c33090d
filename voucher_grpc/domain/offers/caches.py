"""Bounded caches of what follows from places, valid while what it was made of is the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction
from typing import Any, NamedTuple

from voucher_grpc.domain.offers.place_tariffs import ALWAYS, DefaultTariffs, Found, Tariffs
from voucher_grpc.domain.places.location import Location, VehicleProfile
from voucher_grpc.domain.pricing.tariff import Tariff, TariffKey, TariffType, tariff_key
from voucher_grpc.domain.pricing.usual import PlacePrices, SessionPrice, UsualSession
from voucher_grpc.domain.tendencies.recent import place_number
from voucher_grpc.domain.tendencies.tendency import Vector
from voucher_grpc.domain.tendencies.user_prices import UserPrices, Weighted, constant, user_prices
from voucher_grpc.money import BASIS_POINTS
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.steps import Steps


class PricedPlace(NamedTuple):
    """What decides the price at a place: `vat` is the rate configured for its country, in basis
    points; `profile` the type of tariff that comes first."""

    place: PlaceKey
    currency_code: str
    vat: int | None
    profile: TariffType


@dataclass(slots=True)
class PricesAt:
    """The prices at a place, None: there are none; `number` stands for the place in sessions."""

    prices: PlacePrices | None
    number: int
    _location: Location | None
    _found: Found
    _snapshot: int  # the last one for which it was so

    def is_for(self, location: Location | None, now: datetime) -> bool:
        """Whether it was found for this very location, and for now."""
        return self._location is location and self._found.since <= now < self._found.until

    def is_of(
        self,
        place: PricedPlace,
        snapshot: int,
        tariffs: Tariffs,
        defaults: DefaultTariffs,
    ) -> bool:
        """Whether the tariffs that were looked up are still the same in a snapshot."""
        if self._snapshot != snapshot:
            if not _is_same(place, self._found, tariffs, defaults):
                return False
            self._snapshot = snapshot
        return True


class PriceCache:
    """The prices found for places, and what sessions and users pay by them, handed on from
    snapshot to snapshot.

    Those of a place are kept while the location and the tariffs that were looked up for it are
    the same: a changed tariff makes the places anew that may have it, and no others. After a
    change each place is compared once, when it is asked for. What users and sessions pay is
    found when a request asks for it.

    Bounded: at a bound it begins anew.
    """

    MAX_PLACES = 50_000
    MAX_TARIFFS = 16_384
    MAX_SESSIONS = 100_000
    MAX_USERS = 20_000
    # Of a place that has more, all are looked up again after any change.
    MAX_LOOKED_UP = 16

    def __init__(self) -> None:
        self._places: dict[PricedPlace, PricesAt] = {}
        self._of_tariffs: dict[tuple[TariffKey, int | None, int, str], PlacePrices] = {}
        self._sessions: dict[tuple[PlacePrices, UsualSession, date | None], SessionPrice] = {}
        self._users: dict[tuple[PlacePrices, bytes, tuple[int, ...], date | None], UserPrices] = {}

    def get(
        self,
        place: PricedPlace,
        location: Location | None,
        snapshot: int,
        tariffs: Tariffs,
        defaults: DefaultTariffs,
        now: datetime,
    ) -> PricesAt | None:
        """The prices; None where they are not kept, or not for `now`.

        `snapshot` is the serial number of the one that has these tariffs.
        """
        kept = self._places.get(place)
        if kept is None or not kept.is_for(location, now):
            return None
        return kept if kept.is_of(place, snapshot, tariffs, defaults) else None

    def keep(
        self, place: PricedPlace, location: Location | None, snapshot: int, found: Found
    ) -> PricesAt:
        """The prices of what was found for a place, which are kept."""
        prices = None if found.tariff is None else self._prices_of(found.tariff, found, place.vat)
        _make_room(self._places, self.MAX_PLACES)
        kept = PricesAt(prices, place_number(place.place), location, found, snapshot)
        self._places[place] = kept
        return kept

    def _prices_of(self, tariff: Tariff, found: Found, vat: int | None) -> PlacePrices:
        """The same object for the same tariffs, power and time zone."""
        timeline = ((ALWAYS, tariff), *found.coming)
        key = (tariff.key, vat, found.power_w, found.time_zone)
        known = self._of_tariffs.get(key)
        if known is None or not _same_tariffs(known.tariffs, timeline):
            _make_room(self._of_tariffs, self.MAX_TARIFFS)
            rate = None if vat is None else Fraction(vat, BASIS_POINTS)
            known = PlacePrices(timeline, rate, found.power_w, found.time_zone)
            self._of_tariffs[key] = known
        return known

    def user_prices(
        self,
        prices: PlacePrices,
        recent: bytes,
        places: tuple[int, ...],
        sessions: Callable[[], Sequence[Weighted]],
        now: datetime,
    ) -> Steps[UserPrices]:
        """What a user pays, whose latest sessions are `recent` (b"": not known) and those at
        these places `sessions`."""
        today = prices.today(now)
        always = prices.price_per_kwh
        key = (prices, recent, places, today) if always is None else (prices, b"", (), None)
        known = self._users.get(key)
        if known is None:
            if always is not None:
                known = constant(always)
            else:
                price_of = self._session_price(prices, today, now)
                known = yield from user_prices(prices, sessions(), price_of)
            if recent or always is not None:
                _make_room(self._users, self.MAX_USERS)
                self._users[key] = known
        return known

    def _session_price(
        self, prices: PlacePrices, today: date | None, now: datetime
    ) -> Callable[[UsualSession], SessionPrice]:
        def price_of(kind: UsualSession) -> SessionPrice:
            key = (prices, kind, today)
            known = self._sessions.get(key)
            if known is None:
                _make_room(self._sessions, self.MAX_SESSIONS)
                known = self._sessions[key] = prices.price(kind, now)
            return known

        return price_of


def _make_room(kept: dict[Any, Any], most: int) -> None:
    if len(kept) >= most:
        kept.clear()


def _same_tariffs(
    one: Sequence[tuple[datetime, Tariff | None]], other: Sequence[tuple[datetime, Tariff | None]]
) -> bool:
    """Whether they are the same objects, each from the same instant on."""
    return len(one) == len(other) and all(
        a[0] == b[0] and a[1] is b[1] for a, b in zip(one, other, strict=True)
    )


def _is_same(
    place: PricedPlace,
    found: Found,
    tariffs: Tariffs,
    defaults: DefaultTariffs,
) -> bool:
    """Whether the tariffs that were looked up are still the same."""
    if len(found.looked_up) > PriceCache.MAX_LOOKED_UP:
        return False
    country, party = place.place.country_code, place.place.party_id
    return all(
        tariffs.get(tariff_key(country, party, tariff_id)) is tariff
        for tariff_id, tariff in found.looked_up.items()
    ) and (
        not found.by_default or defaults.get((found.country, place.currency_code)) is found.default
    )


class PlaceConditionCache:
    """Which wheres a place is inside, for a vehicle; kept while the location is the same.

    Bounded: at the bound it begins anew.
    """

    MAX_PLACES = 20_000
    MAX_NUMBERS = 4_000_000

    def __init__(self) -> None:
        self._by_vehicle: dict[VehicleProfile, dict[PlaceKey, tuple[Location | None, Vector]]] = {}
        self._places = 0

    def get(
        self, vehicle: VehicleProfile, place: PlaceKey, location: Location | None
    ) -> Vector | None:
        """1.0 for each where that the place is inside, if it is kept."""
        places = self._by_vehicle.get(vehicle)
        found = None if places is None else places.get(place)
        return found[1] if found is not None and found[0] is location else None

    def keep(
        self, vehicle: VehicleProfile, place: PlaceKey, location: Location | None, covered: Vector
    ) -> None:
        """Keep what was judged."""
        most = min(self.MAX_PLACES, self.MAX_NUMBERS // max(1, len(covered)))
        if self._places >= most:
            self._by_vehicle.clear()
            self._places = 0
        self._by_vehicle.setdefault(vehicle, {})[place] = (location, covered)
        self._places += 1
