"""The catalogue, the tariffs and the segments as one immutable whole, replaced when one changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from voucher_grpc.catalogue.product import Product
from voucher_grpc.offers.columns import Columns, build_columns
from voucher_grpc.offers.kept import KeptPrices
from voucher_grpc.offers.segments import Segments
from voucher_grpc.places.tariff import Tariff, TariffKey


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`columns` by currency hold the active products, `products` by id, in the store's order;
    `default_tariffs` by (country, currency)."""

    version: int
    columns: Mapping[str, Columns]
    tariffs: Mapping[TariffKey, Tariff]
    default_tariffs: Mapping[tuple[str, str], Tariff]
    segments: Segments = field(default_factory=dict)
    products: Mapping[str, Product] = field(default_factory=dict)
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
        {product.terms.product_id: product for product in products},
    )
