"""What is kept of places between requests, for as long as the location is the same. Bounded."""

from voucher_grpc.catalogue.conditions import PlaceKey
from voucher_grpc.offers.tendency import Vector
from voucher_grpc.places.location import Location, VehicleProfile
from voucher_grpc.places.tariff import HourlyPrices

# (place, currency, the country's VAT rate)
PricedPlace = tuple[PlaceKey, str, int | None]


class KeptPrices:
    """The prices found for places, kept while the location is the same.

    Bounded: at the bound it begins anew.
    """

    MAX_PLACES = 50_000

    def __init__(self) -> None:
        self._kept: dict[PricedPlace, tuple[Location | None, HourlyPrices | None]] = {}

    def get(
        self, place: PricedPlace, location: Location | None
    ) -> tuple[Location | None, HourlyPrices | None] | None:
        """The location with its prices, None where it is not kept."""
        found = self._kept.get(place)
        return found if found is not None and found[0] is location else None

    def keep(
        self, place: PricedPlace, location: Location | None, prices: HourlyPrices | None
    ) -> None:
        """Keep what was found."""
        if len(self._kept) >= self.MAX_PLACES:
            self._kept.clear()
        self._kept[place] = (location, prices)


class CoveredPlaces:
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
