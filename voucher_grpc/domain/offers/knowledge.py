"""All that is known when offers are determined; read by the store, judged by the rules."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from voucher_grpc.domain.offers.snapshot import Snapshot
from voucher_grpc.domain.passes.purchase import Bought
from voucher_grpc.domain.places.location import Vehicle
from voucher_grpc.domain.tendencies.tendency import Tendency
from voucher_grpc.ocpi import PlaceKey


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


class ActivePass(NamedTuple):
    """A pass that a user has: when it begins and ends, in days from now.

    One that begins with its first use and is `unused` can begin until `days_to_end`. `left` is what
    is left of a bundle, in Wh or sessions, once a charge was taken from it; None: all of it.
    """

    days_to_start: float
    days_to_end: float
    unused: bool = False
    left: int | None = None


class Knowledge(NamedTuple):
    """All that is known when offers are determined; `places` with their energy weights.

    `owned` are the passes that can be used now or later, by product; `profile_type`
    is the declared wish, "" for none.
    """

    user_id: str
    settings: UserSettings
    vehicle: Vehicle | None
    tendency: Tendency | None
    profile_type: str
    places: Sequence[tuple[PlaceKey, float]]
    bought: Sequence[Bought]
    owned: Mapping[str, ActivePass]
    sold_out: frozenset[str]
    snapshot: Snapshot
