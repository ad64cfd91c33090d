"""From what is known of a user to the offers: the one way that requests and evaluations go."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

from voucher_grpc.domain.offers.caches import PricedPlace, PricesAt
from voucher_grpc.domain.offers.choices import Buyer, Ranking
from voucher_grpc.domain.offers.columns import Columns, build_columns
from voucher_grpc.domain.offers.knowledge import Knowledge, ProfileType
from voucher_grpc.domain.offers.place_tariffs import country_of, find_tariff
from voucher_grpc.domain.offers.ranking import RankedBuyer, rank_all
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.offers.snapshot import Snapshot
from voucher_grpc.domain.places.location import Location, VehicleProfile
from voucher_grpc.domain.pricing.tariff import Tariff, TariffType
from voucher_grpc.domain.pricing.usual import PlacePrices
from voucher_grpc.domain.tendencies.demand import DemandPlace, Demands, expected_demands
from voucher_grpc.domain.tendencies.recent import recent_sessions
from voucher_grpc.domain.tendencies.segments import (
    SURE_DAYS,
    Segment,
    SegmentKey,
    drawn_to_segments,
    prior_of,
)
from voucher_grpc.domain.tendencies.tendency import Tendency, many_habits
from voucher_grpc.domain.tendencies.user_prices import UserPrices, Weighted, from_sums, weighted
from voucher_grpc.errors import BadInput, bad_field
from voucher_grpc.ocpi import PlaceKey, folded
from voucher_grpc.steps import Steps, finished

Locations = Mapping[tuple[str, str, str], Location | None]
VatRates = Mapping[str, int]

# With fewer sessions than this nothing is valued: too little is known. After one a tenth of
# the months would cost more than no pass (docs/evaluation.md, cold start).
MIN_SESSIONS = 2
_NOTHING = build_columns([])
_ANY_VEHICLE = VehicleProfile()


class Determined(NamedTuple):
    """The ranking with the demand it rests on (one row; None where too little is known)."""

    ranking: Ranking
    demands: Demands | None
    row: int
    currency_code: str

    @property
    def demand(self) -> Demands | None:
        """This user's demand alone."""
        if self.demands is None:
            return None
        return self.demands.part(self.row, self.row + 1)


def tariff_at(
    place: PlaceKey,
    location: Location | None,
    snapshot: Snapshot,
    currency_code: str,
    now: datetime,
) -> Tariff | None:
    """The tariff of a place in a currency ("": any) for a charge that begins now: the first
    connector's that has one, else the default of its country."""
    tariffs, defaults = snapshot.tariffs, snapshot.default_tariffs
    return find_tariff(place, location, tariffs, defaults, currency_code, now).tariff


def currency_of(
    knowledge: Knowledge, request: OffersRequest, locations: Locations, now: datetime
) -> str:
    """The currency of the offers: asked for, the user's, or that of the tariff at the place.

    Raises BadInput if nothing says it.
    """
    declared = request.currency_code or knowledge.settings.currency_code
    if declared:
        return declared
    places = [request.place] if request.place is not None else []
    places += [place for place, _ in knowledge.places]
    for place in places:
        tariff = tariff_at(place, locations.get(_location(place)), knowledge.snapshot, "", now)
        if tariff is not None:
            return tariff.currency_code
    countries = [request.country_code, knowledge.settings.country_code]
    countries += [country_of(place, locations.get(_location(place))) for place in places]
    for country, currency in sorted(knowledge.snapshot.default_tariffs):
        if country and country in countries:
            return currency
    raise bad_field(
        "currency_code", "is missing: neither the user nor a tariff at the place says it"
    )


def _location(place: PlaceKey) -> tuple[str, str, str]:
    return place.country_code, place.party_id, folded(place.location_id)


def place_prices(
    place: PlaceKey,
    location: Location | None,
    snapshot: Snapshot,
    currency_code: str,
    vat_rates: VatRates,
    now: datetime,
    profile_type: str = "",
) -> PricesAt:
    """The prices at a place in a currency, found once for as long as nothing of it changes."""
    profile = _PROFILES.get(profile_type, TariffType.REGULAR)
    vat = vat_rates.get(country_of(place, location))
    priced = PricedPlace(place, currency_code, vat, profile)
    kept = snapshot.price_cache.get(
        priced, location, snapshot.serial, snapshot.tariffs, snapshot.default_tariffs, now
    )
    if kept is not None:
        return kept
    found = find_tariff(
        place, location, snapshot.tariffs, snapshot.default_tariffs, currency_code, now, profile
    )
    return snapshot.price_cache.keep(priced, location, snapshot.serial, found)


_PROFILES: Mapping[str, TariffType] = {
    ProfileType.CHEAP: TariffType.PROFILE_CHEAP,
    ProfileType.FAST: TariffType.PROFILE_FAST,
    ProfileType.GREEN: TariffType.PROFILE_GREEN,
}


def _places(
    knowledge: Knowledge,
    tendency: Tendency,
    locations: Locations,
    currency_code: str,
    vat_rates: VatRates,
    now: datetime,
) -> Steps[list[DemandPlace]]:
    """The eight greatest places stand for all of them, their shares made to add up to 1."""
    total = sum([weight for _, weight in knowledge.places])
    snapshot, found = knowledge.snapshot, []
    numbers: dict[PlacePrices, tuple[int, ...]] = {}
    for place, weight in knowledge.places:
        location = locations.get(_location(place))
        priced = place_prices(
            place, location, snapshot, currency_code, vat_rates, now, knowledge.profile_type
        )
        prices = priced.prices
        if prices is not None:
            numbers[prices] = (*numbers.get(prices, ()), priced.number)
        found.append((place, weight / total, location, prices))
    by_prices: dict[PlacePrices, UserPrices] = {}
    for prices, members in numbers.items():
        by_prices[prices] = yield from snapshot.price_cache.user_prices(
            prices, tendency.recent, members, partial(_sessions_at, tendency, members), now
        )
    return [
        DemandPlace(place, share, location, None if prices is None else by_prices[prices])
        for place, share, location, prices in found
    ]


def _sessions_at(tendency: Tendency, places: tuple[int, ...]) -> list[Weighted]:
    """The latest sessions at some places, else those anywhere, else what the sums say."""
    sessions = recent_sessions(tendency.recent)
    if not sessions:
        return from_sums(tendency)
    return weighted([s for s in sessions if s.place_number in places] or sessions)


class UserRequest(NamedTuple):
    """A request with what is known of its user."""

    knowledge: Knowledge
    request: OffersRequest


def determine(
    knowledge: Knowledge,
    request: OffersRequest,
    locations: Locations,
    vat_rates: VatRates,
    now: datetime,
) -> Determined:
    """The offers for one user; see `determine_all`. Raises BadInput."""
    [found] = finished(determine_all([UserRequest(knowledge, request)], locations, vat_rates, now))
    if isinstance(found, BadInput):
        raise found
    return found


def determine_all(
    asked: Sequence[UserRequest], locations: Locations, vat_rates: VatRates, now: datetime
) -> Steps[list[Determined | BadInput]]:
    """The offers for many users at once. Pure: the same knowledge gives the same answer.

    In steps: what a user pays is priced session by session where it is not kept.

    `locations` holds what is known of the users' places and of the requests'. A
    result is BadInput where no currency can be determined.
    """
    results: dict[int, Determined | BadInput] = {}
    together: dict[tuple[int, str], list[int]] = {}
    for number, (knowledge, request) in enumerate(asked):
        try:
            currency_code = currency_of(knowledge, request, locations, now)
        except BadInput as bad:
            results[number] = bad
            continue
        together.setdefault((id(knowledge.snapshot), currency_code), []).append(number)
    for (_, currency_code), numbers in together.items():
        users = [asked[number] for number in numbers]
        found = yield from _determine(users, locations, currency_code, vat_rates, now)
        results.update(zip(numbers, found, strict=True))
    return [results[number] for number in range(len(asked))]


def _determine(
    asked: Sequence[UserRequest],
    locations: Locations,
    currency_code: str,
    vat_rates: VatRates,
    now: datetime,
) -> Steps[list[Determined]]:
    """Users who pay in one currency, under one snapshot."""
    rows, demands = yield from demands_of(asked, locations, currency_code, vat_rates, now)
    asking = [
        RankedBuyer(row, buyer_of(knowledge, request.vehicle), request.max_offers)
        for row, (knowledge, request) in zip(rows, asked, strict=True)
    ]
    columns = columns_of(asked[0].knowledge.snapshot, currency_code)
    ranked = rank_all(columns, demands, asking, now)
    return [
        Determined(ranking, None if row is None else demands, row or 0, currency_code)
        for row, ranking in zip(rows, ranked, strict=True)
    ]


def demands_of(
    asked: Sequence[UserRequest],
    locations: Locations,
    currency_code: str,
    vat_rates: VatRates,
    now: datetime,
) -> Steps[tuple[list[int | None], Demands | None]]:
    """(each user's row in the demands, None where too little is known; the demands)."""
    users: list[int] = []
    tendencies: list[Tendency] = []
    for number, (knowledge, _) in enumerate(asked):
        tendency = knowledge.tendency
        placed = sum([weight for _, weight in knowledge.places]) > 0
        if tendency is not None and tendency.sessions >= MIN_SESSIONS and placed:
            users.append(number)
            tendencies.append(tendency)
    rows: list[int | None] = [None] * len(asked)
    if not users:
        return rows, None
    some, habits = many_habits(tendencies, now)
    if not some:
        return rows, None
    places = []
    for row, known in enumerate(some):
        number, tendency = users[known], tendencies[known]
        rows[number] = row
        knowledge = asked[number].knowledge
        found = yield from _places(knowledge, tendency, locations, currency_code, vat_rates, now)
        places.append(found)
    demands = expected_demands(habits, places, [tendencies[known].forecast for known in some])
    known_days = habits.known_days.tolist()
    priors = {}
    for row, number in enumerate(some):
        if known_days[row] < SURE_DAYS:
            prior = _prior(asked[users[number]])
            if prior is not None:
                priors[row] = prior
    return rows, drawn_to_segments(demands, known_days, priors)


def _prior(asked: UserRequest) -> Segment | None:
    """What is usual for the user's country, declared or charged in most, vehicle and wish."""
    knowledge, request = asked
    if not knowledge.snapshot.segments:
        return None
    country = knowledge.settings.country_code or knowledge.places[0][0].country_code
    vehicle = _vehicle(knowledge, request.vehicle).type
    key = SegmentKey(country, vehicle or "", knowledge.profile_type)
    return prior_of(knowledge.snapshot.segments, key)


def columns_of(snapshot: Snapshot, currency_code: str) -> Columns:
    """The active products in a currency."""
    return snapshot.columns.get(currency_code, _NOTHING)


def buyer_of(knowledge: Knowledge, vehicle: VehicleProfile | None) -> Buyer:
    """What decides what the user can buy; `vehicle` replaces the registered one."""
    return Buyer(
        bought=knowledge.bought,
        owned=knowledge.owned,
        vehicle=_vehicle(knowledge, vehicle),
        sold_out=knowledge.sold_out,
        profile_type=knowledge.profile_type,
    )


def _vehicle(knowledge: Knowledge, described: VehicleProfile | None) -> VehicleProfile:
    """The vehicle that the request describes, else the registered one that it names."""
    if described is not None:
        return described
    return knowledge.vehicle.profile if knowledge.vehicle is not None else _ANY_VEHICLE
