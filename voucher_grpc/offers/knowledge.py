"""All that is known when offers are determined; read by the store, judged by the rules."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from voucher_grpc.catalogue.conditions import PlaceKey
from voucher_grpc.offers.snapshot import Snapshot
from voucher_grpc.offers.tendency import Tendency
from voucher_grpc.passes.purchase import Bought
from voucher_grpc.places.location import Vehicle


class ProfileType(StrEnum):
    """A user's declared wish, as OCPI ChargingPreferences has it."""

    CHEAP = "CHEAP"
    FAST = "FAST"
    GREEN = "GREEN"
    REGULAR = "REGULAR"


class UserSettings(NamedTuple):
    """What a user declared about themselves; "" where nothing was."""

    time_zone: str = ""
    currency_code: str = ""
    language: str = ""
    country_code: str = ""


class Knowledge(NamedTuple):
    """All that is known when offers are determined; `places` with their energy weights.

    `owned` are the days for which each product that the user owns is good yet;
    `profile_type` is the declared wish, "" for none.
    """

    user_id: str
    settings: UserSettings
    vehicle: Vehicle | None
    tendency: Tendency | None
    profile_type: str
    places: Sequence[tuple[PlaceKey, float]]
    bought: Sequence[Bought]
    owned: Mapping[str, float]
    sold_out: frozenset[str]
    snapshot: Snapshot
