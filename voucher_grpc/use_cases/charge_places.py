"""Where charges are, and what prices them there: locations and tariffs as offers know them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from voucher_grpc.domain.offers.place_tariffs import country_of
from voucher_grpc.domain.offers.snapshot import Snapshot
from voucher_grpc.domain.places.location import Location, VehicleProfile, place_exists
from voucher_grpc.domain.redemption.authorize import Authorization, PlaceTerms, Priced
from voucher_grpc.domain.redemption.capture import Cdr
from voucher_grpc.domain.redemption.usable import ChargePlace
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.stored_places import location_key, location_not_found
from voucher_grpc.use_cases.price_charge import tariff_at_place


class ChargePlaces:
    """Finds the places of a batch. `snapshot` gives the one that offers are made from."""

    def __init__(
        self,
        locations: LocationCache,
        snapshot: Callable[[], Snapshot],
        vat_rates: Mapping[str, int],
        clock: DatabaseClock,
    ) -> None:
        self._locations = locations
        self._snapshot = snapshot
        self._vat_rates = vat_rates
        self._clock = clock

    async def find(
        self, connection: Connection, asked: Sequence[Authorization | Cdr]
    ) -> Mapping[int, PlaceTerms | Refusal]:
        """By the identity of a request its place with its tariff, or the refusal of a place that
        is not known."""
        keys = {location_key(one.place) for one in asked}
        locations = await self._locations.get(connection, keys) if keys else {}
        now = self._clock.now()
        return {
            id(one): self._placed(
                one.place, one.vehicle, locations[location_key(one.place)], one.start_time or now
            )
            for one in asked
        }

    def _placed(
        self, place: PlaceKey, vehicle: VehicleProfile, location: Location | None, at: datetime
    ) -> PlaceTerms | Refusal:
        if location is None:
            return location_not_found(place[:3])
        if not place_exists(location, place):
            return Refusal(
                Reason.LOCATION_NOT_FOUND,
                f"location {location.location_id} has no EVSE or connector of that id",
            )
        tariff, _ = tariff_at_place(place, location, self._snapshot(), at)
        tax = self._vat_rates.get(country_of(place, location))
        return PlaceTerms(
            ChargePlace(place, location, vehicle), Priced(tariff, location.time_zone, tax)
        )
