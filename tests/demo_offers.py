"""What a demo user is offered at any instant, by the rules alone: no server, no store.

So that all days of years can be looked at; `tests/integration/test_demo.py` holds it
against what a server answers.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from importlib.resources import as_file, files
from typing import NamedTuple

from voucher_grpc.dev.demo.users import DemoUser, sessions_of
from voucher_grpc.domain.offers.determine import (
    Locations,
    UserRequest,
    buyer_of,
    columns_of,
    demands_of,
    determine,
)
from voucher_grpc.domain.offers.knowledge import Knowledge, UserSettings
from voucher_grpc.domain.offers.ranking import adjusted_saving
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.offers.snapshot import Snapshot, build_snapshot
from voucher_grpc.domain.offers.valuation import value
from voucher_grpc.domain.tendencies.forecast import default_parameters, forecasts
from voucher_grpc.domain.tendencies.recording import PlaceWeights, add_place
from voucher_grpc.domain.tendencies.tendency import rebuild
from voucher_grpc.edge.wire.sessions import session_from_message
from voucher_grpc.evaluation.backtest import as_product
from voucher_grpc.files.catalogue import read_catalogue
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.ocpi_objects import read_objects
from voucher_grpc.files.published_locations import read_location
from voucher_grpc.files.published_tariffs import read_tariff
from voucher_grpc.steps import finished
from voucher_grpc.store.stored_places import location_key

# What each is offered first, on any day.
FIRST_OFFERS = {
    "demo-night-owl": "night-light",
    "demo-weekender": "weekend-40",
    "demo-commuter": "commuter",
    "demo-fast-charger": "power",
    "demo-scooter": "scooter-30",
    "demo-drone": "drone-deck",
    "demo-trucker": "megawatt",
    "demo-rare": "hello",
    "demo-rhine": "rhine-power",
}
# They charge too little for any pass, so the default product is not recommended.
PAYS_NOTHING = frozenset({"demo-rare"})
# By so much of its saving the first offer leads the second, on any day.
LEAST_LEAD = 0.2
MAX_OFFERS = 20


class Shown(NamedTuple):
    """The offers of a user at an instant, best first.

    `lead` is by how much the saving of the first that the ranking sorts by is
    above that of the second (zero: no pass), as a share of it; 0 if none pays.
    """

    product_ids: Sequence[str]
    recommended: bool
    lead: float


@lru_cache(maxsize=1)
def demo_snapshot() -> Snapshot:
    """The demo's catalogue and tariffs."""
    folder = files("voucher_grpc.dev.demo")
    with as_file(folder / "catalogue.yaml") as catalogue, as_file(folder / "tariffs.json") as path:
        products = [as_product(terms) for terms in read_catalogue(catalogue)]
        return build_snapshot(1, products, [read_tariff(o, Notes()) for o in read_objects(path)])


@lru_cache(maxsize=1)
def demo_locations() -> Locations:
    """The demo's locations."""
    with as_file(files("voucher_grpc.dev.demo") / "locations.json") as path:
        found = [read_location(value, Notes()) for value in read_objects(path)]
    return {location_key(each.key): each for each in found}


def known_of(user: DemoUser, now: datetime) -> Knowledge:
    """What a server knows of a user whose sessions up to `now` are loaded."""
    sessions = [session_from_message(message, now).session for message in sessions_of(user, now)]
    tendency, weights = rebuild(sessions), PlaceWeights()
    for session in sessions:
        add_place(weights, session)
    [tendency.forecast] = forecasts(default_parameters(), [tendency])
    return Knowledge(
        user_id=user.user_id,
        settings=UserSettings(user.time_zone, user.currency_code, "", user.country_code),
        vehicle=user.vehicle,
        tendency=tendency,
        profile_type="",
        places=sorted(weights.items(), key=lambda item: -item[1])[:8],
        bought=(),
        owned={},
        sold_out=frozenset(),
        snapshot=demo_snapshot(),
    )


def shown_to(user: DemoUser, now: datetime) -> Shown:
    """What is offered to a demo user who has bought nothing."""
    asked = UserRequest(known_of(user, now), OffersRequest(max_offers=MAX_OFFERS))
    choices = determine(*asked, demo_locations(), {}, now).ranking.choices
    product_ids = [choice.product.product_id for choice in choices]
    if not choices[0].recommended:
        return Shown(product_ids, recommended=False, lead=0.0)
    _, demands = finished(demands_of([asked], demo_locations(), user.currency_code, {}, now))
    assert demands is not None
    columns, buyer = (
        columns_of(demo_snapshot(), user.currency_code),
        buyer_of(asked.knowledge, None),
    )
    valuation = value(columns, demands, [buyer.vehicle], [buyer.owned], now)
    saving = adjusted_saving(valuation, [buyer])[0]
    position = valuation.selection.position
    first, *others = [float(saving[position[columns.row_of[name]]]) for name in product_ids]
    second = max([0.0, *others])
    return Shown(product_ids, recommended=True, lead=(first - second) / first)
