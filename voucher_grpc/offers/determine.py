"""From what is known of a user to the offers: the one way that requests and evaluations go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from voucher_grpc.catalogue.conditions import PlaceKey
from voucher_grpc.errors import BadInput, bad_field
from voucher_grpc.offers.columns import Columns, build_columns
from voucher_grpc.offers.demand import Demand, DemandPlace, expected_demand
from voucher_grpc.offers.forecast import scenarios
from voucher_grpc.offers.knowledge import Knowledge
from voucher_grpc.offers.ranking import Asking, Buyer, Ranking, rank_all
from voucher_grpc.offers.snapshot import Snapshot
from voucher_grpc.offers.tendency import habits
from voucher_grpc.places.location import Location, VehicleProfile, connectors_at
from voucher_grpc.places.tariff import HourlyPrices, Tariff, TariffKey, hourly_prices

Locations = Mapping[tuple[str, str, str], Location | None]
VatRates = Mapping[str, int]

# With fewer sessions than this nothing is valued: too little is known.
MIN_SESSIONS = 3
_NOTHING = build_columns([])
_ANY_VEHICLE = VehicleProfile()


@dataclass(frozen=True, slots=True)
class Request:
    """What a request adds to what is known; "" and None where it says nothing."""

    vehicle: VehicleProfile | None
    place: PlaceKey | None
    country_code: str
    currency_code: str
    max_offers: int


@dataclass(frozen=True, slots=True)
class Determined:
    """The ranking with the demand it rests on and its currency."""

    ranking: Ranking
    demand: Demand | None
    currency_code: str


def tariff_at(
    place: PlaceKey, location: Location | None, snapshot: Snapshot, currency_code: str
) -> Tariff | None:
    """The tariff of a place in a currency ("": any): the first of a connector's own, else the
    default of its country."""
    for connector in connectors_at(location, place) if location is not None else ():
        for tariff_id in connector.tariff_ids:
            key = TariffKey(place.country_code, place.party_id, tariff_id)
            tariff = snapshot.tariffs.get(key)
            if tariff is not None and currency_code in ("", tariff.currency_code):
                return tariff
    return snapshot.default_tariffs.get((place.country_code, currency_code))


def currency_of(knowledge: Knowledge, request: Request, locations: Locations) -> str:
    """The currency of the offers: asked for, the user's, or that of the tariff at the place.

    Raises BadInput if nothing says it.
    """
    declared = request.currency_code or knowledge.settings.currency_code
    if declared:
        return declared
    places = [request.place] if request.place is not None else []
    places += [place for place, _ in knowledge.places]
    for place in places:
        tariff = tariff_at(place, locations.get(_location(place)), knowledge.snapshot, "")
        if tariff is not None:
            return tariff.currency_code
    countries = [request.country_code, knowledge.settings.country_code]
    countries += [place.country_code for place in places]
    for country, currency in sorted(knowledge.snapshot.default_tariffs):
        if country and country in countries:
            return currency
    raise bad_field(
        "currency_code", "is missing: neither the user nor a tariff at the place says it"
    )


def _location(place: PlaceKey) -> tuple[str, str, str]:
    return place.country_code, place.party_id, place.location_id


def _prices(
    place: PlaceKey,
    location: Location | None,
    snapshot: Snapshot,
    currency_code: str,
    vat_rates: VatRates,
) -> HourlyPrices | None:
    vat = vat_rates.get(place.country_code)
    kept = snapshot.kept_prices.get((place, currency_code, vat), location)
    if kept is not None:
        return kept[1]
    tariff = tariff_at(place, location, snapshot, currency_code)
    prices = None if tariff is None else hourly_prices(tariff, vat)
    snapshot.kept_prices.keep((place, currency_code, vat), location, prices)
    return prices


def demand_of(
    knowledge: Knowledge,
    locations: Locations,
    currency_code: str,
    vat_rates: VatRates,
    now: datetime,
) -> Demand | None:
    """The coming demand; None where too little is known.

    The eight greatest places stand for all of them, their shares made to add up
    to 1.
    """
    if knowledge.tendency is None or knowledge.tendency.sessions < MIN_SESSIONS:
        return None
    known = habits(knowledge.tendency, now)
    total = sum(weight for _, weight in knowledge.places)
    if known is None or total <= 0:
        return None
    places: Sequence[DemandPlace] = [
        DemandPlace(
            key=place,
            share=weight / total,
            location=locations.get(_location(place)),
            prices=_prices(
                place, locations.get(_location(place)), knowledge.snapshot, currency_code, vat_rates
            ),
        )
        for place, weight in knowledge.places
    ]
    points = scenarios(knowledge.tendency.forecast, known.silence_days)
    return expected_demand(known, places, points)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with what is known of its user."""

    knowledge: Knowledge
    request: Request


def determine(
    knowledge: Knowledge,
    request: Request,
    locations: Locations,
    vat_rates: VatRates,
    now: datetime,
) -> Determined:
    """The offers for one user; see `determine_all`. Raises BadInput."""
    found = determine_all([Asked(knowledge, request)], locations, vat_rates, now)[0]
    if isinstance(found, BadInput):
        raise found
    return found


def determine_all(
    asked: Sequence[Asked], locations: Locations, vat_rates: VatRates, now: datetime
) -> list[Determined | BadInput]:
    """The offers for many users at once. Pure: the same knowledge gives the same answer.

    `locations` holds what is known of the users' places and of the requests'. A
    result is BadInput where no currency can be determined.
    """
    results: dict[int, Determined | BadInput] = {}
    currencies: dict[int, str] = {}
    together: dict[int, tuple[Columns, list[int], list[Asking]]] = {}
    for number, (knowledge, request) in enumerate((a.knowledge, a.request) for a in asked):
        try:
            currency_code = currency_of(knowledge, request, locations)
        except BadInput as bad:
            results[number] = bad
            continue
        demand = demand_of(knowledge, locations, currency_code, vat_rates, now)
        columns = columns_of(knowledge.snapshot, currency_code)
        _, numbers, asking = together.setdefault(id(columns), (columns, [], []))
        numbers.append(number)
        asking.append(Asking(demand, buyer_of(knowledge, request.vehicle), request.max_offers))
        currencies[number] = currency_code
    for columns, numbers, asking in together.values():
        ranked = rank_all(columns, asking, now)
        for number, user, ranking in zip(numbers, asking, ranked, strict=True):
            results[number] = Determined(ranking, user.demand, currencies[number])
    return [results[number] for number in range(len(asked))]


def columns_of(snapshot: Snapshot, currency_code: str) -> Columns:
    """The active products in a currency."""
    return snapshot.columns.get(currency_code, _NOTHING)


def buyer_of(knowledge: Knowledge, vehicle: VehicleProfile | None) -> Buyer:
    """What decides what the user can buy; `vehicle` replaces the registered one."""
    registered = knowledge.vehicle.profile if knowledge.vehicle is not None else _ANY_VEHICLE
    return Buyer(
        bought=knowledge.bought,
        owned_products=knowledge.owned_products,
        vehicle=vehicle or registered,
        sold_out=knowledge.sold_out,
    )
