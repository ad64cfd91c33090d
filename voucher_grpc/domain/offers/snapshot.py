"""The catalogue, the tariffs and the segments as one immutable whole, and what comes after it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

from voucher_grpc.domain.catalogue.product import Product
from voucher_grpc.domain.offers.caches import PriceCache
from voucher_grpc.domain.offers.cells import Compiled
from voucher_grpc.domain.offers.columns import Columns, build_columns, rebuild_columns
from voucher_grpc.domain.pricing.tariff import Tariff, TariffKey
from voucher_grpc.domain.tendencies.segments import Segments

_serials = count(1)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """`columns` by currency hold the active products, `products` by id, in the store's order;
    `default_tariffs` by (country, currency). No other snapshot has the same `serial`."""

    version: int
    columns: Mapping[str, Columns]
    tariffs: Mapping[TariffKey, Tariff]
    default_tariffs: Mapping[tuple[str, str], Tariff]
    segments: Segments = field(default_factory=dict)
    products: Mapping[str, Product] = field(default_factory=dict)
    price_cache: PriceCache = field(default_factory=PriceCache)
    serial: int = field(default_factory=lambda: next(_serials))


class ChangedProduct(NamedTuple):
    """A product that has changed; None: it is not offered any more.

    `next_id` is the active product after it in the store's order, None after the last.
    """

    product_id: str
    product: Product | None
    next_id: str | None


class Changes(NamedTuple):
    """What has changed since a snapshot, as of one instant; `segments` None: not they."""

    version: int
    products: Sequence[ChangedProduct] = ()
    tariffs: Sequence[Tariff] = ()
    segments: Segments | None = None


def build_snapshot(
    version: int,
    products: Sequence[Product],
    tariffs: Sequence[Tariff],
    segments: Segments | None = None,
    compiled: Mapping[str, Compiled] | None = None,
    price_cache: PriceCache | None = None,
) -> Snapshot:
    """A snapshot of active products and all tariffs; `compiled` is of each product by id, if it
    is known already."""
    return Snapshot(
        version,
        {
            currency: build_columns(
                rows, None if compiled is None else [compiled[row.product_id] for row in rows]
            )
            for currency, rows in _by_currency(products).items()
        },
        {tariff.key: tariff for tariff in tariffs},
        {(t.country_code, t.currency_code): t for t in tariffs if t.default_for_country},
        segments or {},
        {product.product_id: product for product in products},
        price_cache or PriceCache(),
    )


def changed_snapshot(
    before: Snapshot, changes: Changes, compiled: Mapping[str, Compiled]
) -> Snapshot:
    """The snapshot that comes after one; `compiled` is of each changed product that is offered.

    What has not changed is taken over. The products of a currency in which one has changed
    are put in columns anew, 10,000 in 20 ms.
    """
    tariffs, defaults = _changed_tariffs(before, changes.tariffs)
    products, columns = before.products, before.columns
    if changes.products:
        products = _changed_products(before.products, changes.products)
        columns = _changed_columns(before, products, changes.products, compiled)
    return replace(
        before,
        version=changes.version,
        columns=columns,
        tariffs=tariffs,
        default_tariffs=defaults,
        segments=before.segments if changes.segments is None else changes.segments,
        products=products,
        serial=next(_serials),
    )


def _by_currency(products: Iterable[Product]) -> dict[str, list[Product]]:
    found: dict[str, list[Product]] = {}
    for product in products:
        found.setdefault(product.terms.price.currency_code, []).append(product)
    return found


def _changed_tariffs(
    before: Snapshot, changed: Sequence[Tariff]
) -> tuple[Mapping[TariffKey, Tariff], Mapping[tuple[str, str], Tariff]]:
    if not changed:
        return before.tariffs, before.default_tariffs
    tariffs, defaults = dict(before.tariffs), dict(before.default_tariffs)
    # First those that were the default and may not be any more, whatever the order.
    for tariff in changed:
        old = tariffs.get(tariff.key)
        if old is not None and old.default_for_country:
            defaults.pop((old.country_code, old.currency_code), None)
    for tariff in changed:
        tariffs[tariff.key] = tariff
        if tariff.default_for_country:
            defaults[tariff.country_code, tariff.currency_code] = tariff
    return tariffs, defaults


def _changed_products(
    before: Mapping[str, Product], changed: Sequence[ChangedProduct]
) -> Mapping[str, Product]:
    products = dict(before)
    # New ones by the one they come before.
    added: dict[str | None, str] = {}
    for product_id, product, next_id in changed:
        if product is None:
            products.pop(product_id, None)
            continue
        if product_id not in products:
            added[next_id] = product_id
        products[product_id] = product
    if not added:
        return products
    new = set(added.values())
    order: list[str] = []
    for following in (*(one for one in products if one not in new), None):
        chain: list[str | None] = [following]
        while chain[-1] in added:
            chain.append(added[chain[-1]])
        order += [one for one in reversed(chain) if one is not None]
    return {product_id: products[product_id] for product_id in order}


def _changed_columns(
    before: Snapshot,
    products: Mapping[str, Product],
    changed: Sequence[ChangedProduct],
    compiled: Mapping[str, Compiled],
) -> Mapping[str, Columns]:
    touched = {
        product.terms.price.currency_code
        for product_id, new, _ in changed
        for product in (new, before.products.get(product_id))
        if product is not None
    }
    columns = {code: kept for code, kept in before.columns.items() if code not in touched}
    for code, rows in _by_currency(products.values()).items():
        if code in touched:
            columns[code] = rebuild_columns(before.columns.get(code), rows, compiled)
    return columns
