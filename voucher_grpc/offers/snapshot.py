"""The catalogue, the tariffs and the segments as one immutable whole, replaced when one changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from voucher_grpc.catalogue.conditions import PlaceKey
from voucher_grpc.catalogue.product import Product
from voucher_grpc.offers.columns import Columns, build_columns
from voucher_grpc.offers.segments import Segments
from voucher_grpc.places.location import Location
from voucher_grpc.places.tariff import HourlyPrices, Tariff, TariffKey

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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`columns` by currency hold the active products; `default_tariffs` by (country, currency)."""

    version: int
    columns: Mapping[str, Columns]
    tariffs: Mapping[TariffKey, Tariff]
    default_tariffs: Mapping[tuple[str, str], Tariff]
    segments: Segments = field(default_factory=dict)
    kept_prices: KeptPrices = field(default_factory=KeptPrices, compare=False)


def build_snapshot(
    version: int,
    products: Sequence[Product],
    tariffs: Sequence[Tariff],
    segments: Segments | None = None,
) -> Snapshot:
    """A snapshot of active products and all tariffs."""
    by_currency: dict[str, list[Product]] = {}
    for product in products:
        by_currency.setdefault(product.terms.price.currency_code, []).append(product)
    return Snapshot(
        version,
        {currency: build_columns(rows) for currency, rows in by_currency.items()},
        {tariff.key: tariff for tariff in tariffs},
        {(t.country_code, t.currency_code): t for t in tariffs if t.default_for_country},
        segments or {},
    )
