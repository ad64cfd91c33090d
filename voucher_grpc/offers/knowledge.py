"""All that is known when offers are determined; read by the store, judged by the rules."""

from collections.abc import Sequence
from dataclasses import dataclass

from voucher_grpc.catalogue.conditions import PlaceKey
from voucher_grpc.offers.snapshot import Snapshot
from voucher_grpc.offers.tendency import Tendency
from voucher_grpc.passes.purchase import Bought
from voucher_grpc.places.location import Vehicle


@dataclass(frozen=True, slots=True)
class UserSettings:
    """What a user declared about themselves; "" where nothing was."""

    time_zone: str = ""
    currency_code: str = ""
    language: str = ""
    country_code: str = ""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All that is known when offers are determined; `places` with their energy weights."""

    user_id: str
    settings: UserSettings
    vehicle: Vehicle | None
    tendency: Tendency | None
    profile_type: str
    places: Sequence[tuple[PlaceKey, float]]
    bought: Sequence[Bought]
    owned_products: frozenset[str]
    sold_out: frozenset[str]
    snapshot: Snapshot
