"""From what is known of a user to the offers: the one way that requests and evaluations go."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from voucher_grpc.countries import alpha_2
from voucher_grpc.domain.offers.caches import ALWAYS, NEVER, Found
from voucher_grpc.domain.offers.choices import Buyer, Ranking
from voucher_grpc.domain.offers.columns import Columns, build_columns
from voucher_grpc.domain.offers.knowledge import Knowledge
from voucher_grpc.domain.offers.ranking import RankedBuyer, rank_all
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.offers.snapshot import Snapshot
from voucher_grpc.domain.places.location import Location, VehicleProfile, connectors_at
from voucher_grpc.domain.pricing.choice import choose_tariff
from voucher_grpc.domain.pricing.hourly import HourlyPrices
from voucher_grpc.domain.pricing.tariff import Tariff, TariffKey
from voucher_grpc.domain.tendencies.demand import DemandPlace, Demands, expected_demands
from voucher_grpc.domain.tendencies.segments import (
    SURE_DAYS,
    Segment,
    SegmentKey,
    drawn_to_segments,
    prior_of,
)
from voucher_grpc.domain.tendencies.tendency import Tendency, many_habits
from voucher_grpc.errors import BadInput, bad_field
from voucher_grpc.ocpi import PlaceKey

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


def country_of(place: PlaceKey, location: Location | None) -> str:
    """The country whose tax and default tariff count (ISO 3166-1 alpha-2): that of the place if
    the location states it, else that of its operator."""
    stated = alpha_2(location.country) if location is not None and location.country else None
    return place.country_code if stated is None else stated


def tariff_at(
    place: PlaceKey,
    location: Location | None,
    snapshot: Snapshot,
    currency_code: str,
    now: datetime,
) -> Tariff | None:
    """The tariff of a place in a currency ("": any) for a charge that begins now: the first
    connector's that has one, else the default of its country."""
    return _find_tariff(place, location, snapshot, currency_code, now).tariff


def _find_tariff(
    place: PlaceKey,
    location: Location | None,
    snapshot: Snapshot,
    currency_code: str,
    now: datetime,
) -> Found:
    looked_up: dict[str, Tariff | None] = {}
    tariff: Tariff | None = None
    default: Tariff | None = None
    by_default = False
    country = country_of(place, location)
    for connector in connectors_at(location, place) if location is not None else ():
        own = []
        for tariff_id in connector.tariff_ids:
            key = TariffKey(place.country_code, place.party_id, tariff_id)
            one = looked_up[tariff_id] = snapshot.tariffs.get(key)
            if one is not None:
                own.append(one)
        chosen = choose_tariff(own, now, currency_code)
        if chosen is not None and (tariff is None or not chosen.ad_hoc_only):
            tariff = chosen.tariff
            if not chosen.ad_hoc_only:
                break
    own_ones = [t for t in looked_up.values() if t is not None]
    if not any(currency_code in ("", t.currency_code) for t in own_ones):
        # With a tariff of its own that is not valid now, what a place costs is not known.
        default = snapshot.default_tariffs.get((country, currency_code))
        own_ones = [] if default is None else [default]
        tariff = default if default is not None and default.valid_at(now) else None
        by_default = True
    bounds = [b for t in own_ones for b in (t.start_time, t.end_time) if b is not None]
    return Found(
        tariff,
        looked_up,
        by_default,
        default,
        country,
        since=max((b for b in bounds if b <= now), default=ALWAYS),
        until=min((b for b in bounds if b > now), default=NEVER),
    )


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
    return place.country_code, place.party_id, place.location_id


def place_prices(
    place: PlaceKey,
    location: Location | None,
    snapshot: Snapshot,
    currency_code: str,
    vat_rates: VatRates,
    now: datetime,
) -> HourlyPrices | None:
    """What is paid at a place in a currency, found once for as long as nothing of it changes."""
    priced = (place, currency_code, vat_rates.get(country_of(place, location)))
    kept = snapshot.price_cache.get(
        priced, location, snapshot.serial, snapshot.tariffs, snapshot.default_tariffs, now
    )
    if kept is not None:
        return kept[0]
    found = _find_tariff(place, location, snapshot, currency_code, now)
    return snapshot.price_cache.keep(priced, location, snapshot.serial, found)


def _places(
    knowledge: Knowledge,
    locations: Locations,
    currency_code: str,
    vat_rates: VatRates,
    now: datetime,
) -> list[DemandPlace]:
    """The eight greatest places stand for all of them, their shares made to add up to 1."""
    total = sum([weight for _, weight in knowledge.places])
    snapshot, found = knowledge.snapshot, []
    for place, weight in knowledge.places if total > 0 else ():
        location = locations.get(_location(place))
        prices = place_prices(place, location, snapshot, currency_code, vat_rates, now)
        found.append(DemandPlace(place, weight / total, location, prices))
    return found


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
    found = determine_all([UserRequest(knowledge, request)], locations, vat_rates, now)[0]
    if isinstance(found, BadInput):
        raise found
    return found


def determine_all(
    asked: Sequence[UserRequest], locations: Locations, vat_rates: VatRates, now: datetime
) -> list[Determined | BadInput]:
    """The offers for many users at once. Pure: the same knowledge gives the same answer.

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
        found = _determine(users, locations, currency_code, vat_rates, now)
        results.update(zip(numbers, found, strict=True))
    return [results[number] for number in range(len(asked))]


def _determine(
    asked: Sequence[UserRequest],
    locations: Locations,
    currency_code: str,
    vat_rates: VatRates,
    now: datetime,
) -> list[Determined]:
    """Users who pay in one currency, under one snapshot."""
    rows, demands = demands_of(asked, locations, currency_code, vat_rates, now)
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
) -> tuple[list[int | None], Demands | None]:
    """(each user's row in the demands, None where too little is known; the demands)."""
    users: list[int] = []
    tendencies: list[Tendency] = []
    places: list[list[DemandPlace]] = []
    for number, (knowledge, _) in enumerate(asked):
        tendency = knowledge.tendency
        if tendency is not None and tendency.sessions >= MIN_SESSIONS:
            found = _places(knowledge, locations, currency_code, vat_rates, now)
            if found:
                users.append(number)
                tendencies.append(tendency)
                places.append(found)
    rows: list[int | None] = [None] * len(asked)
    if not users:
        return rows, None
    some, habits = many_habits(tendencies, now)
    if not some:
        return rows, None
    for row, number in enumerate(some):
        rows[users[number]] = row
    forecasts = [tendencies[number].forecast for number in some]
    demands = expected_demands(habits, [places[number] for number in some], forecasts)
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
