"""Bounded caches of what follows from places, valid while what it was made of is the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from voucher_grpc.domain.places.location import Location, VehicleProfile
from voucher_grpc.domain.pricing.hourly import HourlyPrices, hourly_prices
from voucher_grpc.domain.pricing.tariff import Tariff, TariffKey
from voucher_grpc.domain.tendencies.tendency import Vector
from voucher_grpc.ocpi import PlaceKey

# (place, currency, the country's VAT rate)
PricedPlace = tuple[PlaceKey, str, int | None]
DefaultTariffs = Mapping[tuple[str, str], Tariff]
ALWAYS, NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Found:
    """The tariff of a place, and all that was looked up to find it.

    `looked_up` are the tariffs of its connectors by their id, None where there is none of
    that id; `default` is that of the `country`, if it came to that (`by_default`). It is so from
    `since` until before `until`, when one of them begins or ceases to be valid.
    """

    tariff: Tariff | None
    looked_up: Mapping[str, Tariff | None]
    by_default: bool
    default: Tariff | None = None
    country: str = ""
    since: datetime = ALWAYS
    until: datetime = NEVER


@dataclass(slots=True)
class _Priced:
    location: Location | None
    found: Found
    prices: HourlyPrices | None
    snapshot: int  # the last one for which it was so


class PriceCache:
    """The prices found for places and of tariffs, handed on from snapshot to snapshot.

    Those of a place are kept while the location and the tariffs that were looked up for it are
    the same: a changed tariff makes the places anew that may have it, and no others. After a
    change each place is compared once, when it is asked for.

    Bounded: at a bound it begins anew.
    """

    MAX_PLACES = 50_000
    MAX_TARIFFS = 16_384
    # Of a place that has more, all are looked up again after any change.
    MAX_LOOKED_UP = 16

    def __init__(self) -> None:
        self._kept: dict[PricedPlace, _Priced] = {}
        self._of_tariffs: dict[TariffKey, tuple[Tariff, dict[int | None, HourlyPrices]]] = {}

    def get(
        self,
        place: PricedPlace,
        location: Location | None,
        snapshot: int,
        tariffs: Mapping[TariffKey, Tariff],
        defaults: DefaultTariffs,
        now: datetime,
    ) -> tuple[HourlyPrices | None] | None:
        """The prices, alone in a tuple; None where they are not kept, or not for `now`.

        `snapshot` is the serial number of the one that has these tariffs.
        """
        kept = self._kept.get(place)
        if kept is None or kept.location is not location:
            return None
        if not kept.found.since <= now < kept.found.until:
            return None
        if kept.snapshot != snapshot:
            if not _is_same(place, kept.found, tariffs, defaults):
                return None
            kept.snapshot = snapshot
        return (kept.prices,)

    def keep(
        self, place: PricedPlace, location: Location | None, snapshot: int, found: Found
    ) -> HourlyPrices | None:
        """The prices of what was found for a place, which are kept."""
        tariff, vat = found.tariff, place[2]
        prices = None if tariff is None else self._prices_of(tariff, vat)
        if len(self._kept) >= self.MAX_PLACES:
            self._kept.clear()
        self._kept[place] = _Priced(location, found, prices, snapshot)
        return prices

    def _prices_of(self, tariff: Tariff, vat: int | None) -> HourlyPrices:
        known = self._of_tariffs.get(tariff.key)
        if known is None or known[0] is not tariff:
            if len(self._of_tariffs) >= self.MAX_TARIFFS:
                self._of_tariffs.clear()
            known = self._of_tariffs[tariff.key] = (tariff, {})
        by_vat = known[1]
        if vat not in by_vat:
            by_vat[vat] = hourly_prices(tariff, vat)
        return by_vat[vat]

    def recompute(self, tariff: Tariff) -> None:
        """The prices of a tariff that replaces one whose prices are kept, lest a request
        waits for it."""
        known = self._of_tariffs.get(tariff.key)
        if known is not None and known[0] is not tariff:
            by_vat = {vat: hourly_prices(tariff, vat) for vat in known[1]}
            self._of_tariffs[tariff.key] = (tariff, by_vat)


def _is_same(
    place: PricedPlace,
    found: Found,
    tariffs: Mapping[TariffKey, Tariff],
    defaults: DefaultTariffs,
) -> bool:
    """Whether the tariffs that were looked up are still the same."""
    key, currency_code, _ = place
    if len(found.looked_up) > PriceCache.MAX_LOOKED_UP:
        return False
    country, party = key.country_code, key.party_id
    return all(
        tariffs.get(TariffKey(country, party, tariff_id)) is tariff
        for tariff_id, tariff in found.looked_up.items()
    ) and (not found.by_default or defaults.get((found.country, currency_code)) is found.default)


class PlaceConditionCache:
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
