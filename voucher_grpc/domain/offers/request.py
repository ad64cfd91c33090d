"""A request for offers."""

from typing import NamedTuple

from voucher_grpc.domain.places.location import VehicleProfile
from voucher_grpc.ocpi import PlaceKey

DEFAULT_OFFERS = 3


class OffersRequest(NamedTuple):
    """The user, vehicle and place of a request for offers; "" and None where it says nothing.

    `vehicle` describes one, and stands above the registered one that `vehicle_id` names.
    """

    user_id: str = ""
    vehicle_id: str = ""
    vehicle: VehicleProfile | None = None
    place: PlaceKey | None = None
    country_code: str = ""
    max_offers: int = DEFAULT_OFFERS
    language: str = ""
    currency_code: str = ""
