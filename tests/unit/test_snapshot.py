"""A snapshot made from the one before it equals one that is made of everything."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import NOW, SPEC, make_terms, nok
from voucher_grpc.domain.catalogue.conditions import Restrictions, UsageConditions
from voucher_grpc.domain.catalogue.product import (
    Benefit,
    EnergyBundle,
    EnergyPrice,
    PercentageOff,
    Product,
    ProductState,
    SessionBundle,
)
from voucher_grpc.domain.offers.cells import Cell, compile_product
from voucher_grpc.domain.offers.columns import Columns
from voucher_grpc.domain.offers.determine import place_prices
from voucher_grpc.domain.offers.snapshot import (
    ChangedProduct,
    Changes,
    Snapshot,
    build_snapshot,
    changed_snapshot,
)
from voucher_grpc.domain.places.location import Connector, Evse, Location
from voucher_grpc.domain.pricing.tariff import (
    Dimension,
    PriceComponent,
    Tariff,
    TariffElement,
    TariffKey,
)
from voucher_grpc.domain.pricing.usual import PlacePrices
from voucher_grpc.domain.tendencies.segments import Segment, SegmentKey
from voucher_grpc.money import Money
from voucher_grpc.ocpi import Day, PlaceKey

PRODUCTS = [f"p{number}" for number in range(8)]
TARIFFS = [f"t{number}" for number in range(5)]
# Of one currency each, as a product keeps its currency.
CURRENCY_OF = {name: ("NOK", "SEK")[number % 2] for number, name in enumerate(PRODUCTS)}
CONDITIONS = (
    UsageConditions(),
    UsageConditions((Restrictions(start_minute=22 * 60, end_minute=6 * 60),)),
    UsageConditions((Restrictions(day_of_week=frozenset({Day.SUNDAY}), min_power_w=50_000),)),
)
BENEFITS: tuple[Benefit, ...] = (
    EnergyBundle(50_000),
    SessionBundle(5, 20_000),
    EnergyPrice(3_000_000),
    PercentageOff(1_500),
)


def product(product_id: str, price: int, kind: int, *, default: bool) -> Product:
    terms = make_terms(
        product_id,
        BENEFITS[kind % len(BENEFITS)],
        conditions=CONDITIONS[kind % len(CONDITIONS)],
        default_offer=default,
        sale_end_time=NOW if kind == 5 else None,
    )
    money = Money(nok(price).micros, CURRENCY_OF[product_id])
    return Product(replace(terms, price=money), 1, "etag", ProductState.ACTIVE, 0, NOW, "test")


def tariff(tariff_id: str, price: int, currency: str = "NOK", *, default: bool = False) -> Tariff:
    element = TariffElement((PriceComponent(Dimension.ENERGY, price * 1_000_000, Fraction(1, 4)),))
    return Tariff("NO", "OSL", tariff_id, currency, (element,), default_for_country=default)


def location(location_id: str, *tariff_ids: str) -> Location:
    """One EVSE whose connectors have a tariff each."""
    connectors = tuple(
        Connector(str(number), "IEC_62196_T2", tariff_ids=(name,))
        for number, name in enumerate(tariff_ids)
    )
    return Location("NO", "OSL", location_id, "Europe/Oslo", evses=(Evse("E", connectors),))


LOCATIONS = [
    location("none"),
    location("first", "t0", "t1"),
    location("second", "missing", "t1", "t2"),
    location("third", "t3"),
]

Step = tuple[str, Any]
STEPS = st.one_of(
    st.tuples(
        st.just("product"),
        st.builds(
            product,
            st.sampled_from(PRODUCTS),
            st.integers(1, 5),
            st.integers(0, 5),
            default=st.booleans(),
        ),
    ),
    st.tuples(st.just("retire"), st.sampled_from(PRODUCTS)),
    st.tuples(
        st.just("tariff"),
        st.builds(
            tariff,
            st.sampled_from(TARIFFS),
            st.integers(1, 3),
            st.sampled_from(("NOK", "SEK")),
            default=st.booleans(),
        ),
    ),
    st.tuples(st.just("segments"), st.integers(20, 30)),
)


class Store:
    """What the database would have, and what it would say has changed since the last time."""

    def __init__(self) -> None:
        self.version = 0
        self.products: dict[str, Product] = {}
        self.tariffs: dict[TariffKey, Tariff] = {}
        self.segments: dict[SegmentKey, Segment] = {}
        self._touched: set[str] = set()
        self._changed: set[TariffKey] = set()
        self._segments_made = False

    def step(self, step: Step) -> None:
        self.version += 1
        kind, what = step
        if kind == "product":
            self.products[what.product_id] = what
            self._touched.add(what.product_id)
        elif kind == "retire":
            self.products.pop(what, None)
            self._touched.add(what)
        elif kind == "tariff":
            self._put(what)
        else:
            self.segments = {SegmentKey(): Segment(what, np.array([1.0]), np.array([1.0]))}
            self._segments_made = True

    def _put(self, new: Tariff) -> None:
        for key, old in self.tariffs.items():
            both = new.default_for_country and old.default_for_country
            if both and old.currency_code == new.currency_code:
                self.tariffs[key] = replace(old, default_for_country=False)
                self._changed.add(key)
        self.tariffs[new.key] = new
        self._changed.add(new.key)

    def everything(self) -> Snapshot:
        ordered = [self.products[name] for name in sorted(self.products)]
        return build_snapshot(self.version, ordered, list(self.tariffs.values()), self.segments)

    def changes(self) -> Changes:
        changed = [
            ChangedProduct(
                name,
                self.products.get(name),
                min((other for other in self.products if other > name), default=None),
            )
            for name in self._touched
        ]
        found = Changes(
            self.version,
            changed,
            [self.tariffs[key] for key in self._changed],
            self.segments if self._segments_made else None,
        )
        self._touched, self._changed, self._segments_made = set(), set(), False
        return found


def next_snapshot(before: Snapshot, changes: Changes) -> Snapshot:
    cells: dict[Cell, Cell] = {}
    compiled = {
        changed.product_id: compile_product(changed.product, cells)
        for changed in changes.products
        if changed.product is not None
    }
    return changed_snapshot(before, changes, compiled)


def comparable(columns: Columns) -> dict[str, Any]:
    """All of the columns but what is kept between requests."""
    kept = ("_selections", "_life", "covered", "mentioned")
    return {f.name: plain(getattr(columns, f.name)) for f in fields(columns) if f.name not in kept}


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def prices_at(snapshot: Snapshot) -> list[PlacePrices | None]:
    return [
        place_prices(one.key, one, snapshot, currency, {}, NOW).prices
        for one in LOCATIONS
        for currency in ("NOK", "SEK")
    ]


def numbers(prices: PlacePrices | None) -> Any:
    return None if prices is None else prices.price_per_kwh


@SPEC
@given(st.lists(st.lists(STEPS, min_size=1, max_size=5), min_size=1, max_size=6))
def test_changes_give_the_same_snapshot_as_reading_everything(rounds: list[list[Step]]) -> None:
    """A server that has followed a hundred changes offers what a restarted one does."""
    store = Store()
    snapshot = store.everything()
    for steps in rounds:
        for step in steps:
            store.step(step)
        snapshot = next_snapshot(snapshot, store.changes())
        expected = store.everything()
        assert list(expected.products.items()) == list(snapshot.products.items())
        assert (expected.version, expected.tariffs) == (snapshot.version, snapshot.tariffs)
        assert expected.default_tariffs == snapshot.default_tariffs
        assert expected.segments.keys() == snapshot.segments.keys()
        assert [s.users for s in expected.segments.values()] == [
            s.users for s in snapshot.segments.values()
        ]
        assert expected.columns.keys() == snapshot.columns.keys()
        for currency, columns in expected.columns.items():
            assert comparable(columns) == comparable(snapshot.columns[currency])
        # Asked in each round, so that what is kept is older than the tariffs.
        assert [*map(numbers, prices_at(expected))] == [*map(numbers, prices_at(snapshot))]


def followed(before: Snapshot, **changes: Any) -> Snapshot:
    return next_snapshot(before, Changes(before.version + 1, **changes))


def test_a_changed_tariff_makes_only_its_own_prices_anew() -> None:
    """A station that changes one tariff each second must not make those of all others be
    computed anew each second."""
    tariffs = [tariff("t0", 1), tariff("t3", 2), tariff("t4", 3, default=True)]
    before = build_snapshot(1, [], tariffs)
    none, _, first, _, _, _, third, _ = prices_at(before)
    after = followed(before, tariffs=[tariff("t0", 9)])
    now = prices_at(after)
    assert (none, third) == (now[0], now[6])
    assert first is not now[2]
    assert 9 * 1_250_000 == (now[2].price_per_kwh if now[2] else 0)


def test_a_tariff_that_comes_to_be_is_found_before_the_one_that_was_used() -> None:
    """What was looked up in vain counts too: the connector's own tariff comes before the
    default of the country."""
    before = build_snapshot(1, [], [tariff("t4", 3, default=True)])
    assert {3 * 1_250_000} == {prices.price_per_kwh for prices in prices_at(before)[::2] if prices}
    after = followed(before, tariffs=[tariff("t3", 7)])
    assert [3, 3, 3, 7] == [(p.price_per_kwh or 0) / 1_250_000 for p in prices_at(after)[::2] if p]
    gone = followed(after, tariffs=[tariff("t4", 3)])
    assert [None, None, None] == prices_at(gone)[:6:2]


def test_a_place_with_many_tariffs_is_not_remembered_by_all_of_them() -> None:
    """What is kept of a place is bounded: beyond it the place is looked up after each change."""
    ids = [f"unknown{number}" for number in range(40)]
    hub = location("hub", *ids, "t1")
    before = build_snapshot(1, [], [tariff("t1", 1)])
    kept = place_prices(hub.key, hub, before, "NOK", {}, NOW)
    assert kept is place_prices(hub.key, hub, before, "NOK", {}, NOW)
    after = followed(before, tariffs=[tariff(ids[7], 2)])
    found = place_prices(hub.key, hub, after, "NOK", {}, NOW).prices
    assert (2 * 1_250_000) == (found.price_per_kwh if found else 0)


def test_what_was_judged_of_places_outlives_a_change_of_prices() -> None:
    """Which conditions places are inside is judged anew only when there are other conditions."""
    before = build_snapshot(1, [product("p0", 1, 0, default=False)], [])
    cheaper = ChangedProduct("p0", product("p0", 2, 0, default=False), None)
    after = followed(before, products=[cheaper])
    assert before.columns["NOK"].covered is after.columns["NOK"].covered
    fast = ChangedProduct("p2", product("p2", 2, 2, default=False), None)
    assert (
        before.columns["NOK"].covered is not followed(after, products=[fast]).columns["NOK"].covered
    )


def test_other_currencies_keep_their_columns() -> None:
    """A change costs what has changed."""
    both = [product("p0", 1, 0, default=False), product("p1", 1, 0, default=False)]
    before = build_snapshot(1, both, [])
    after = followed(
        before, products=[ChangedProduct("p0", product("p0", 2, 0, default=False), "p1")]
    )
    assert before.columns["SEK"] is after.columns["SEK"]
    assert before.columns["NOK"] is not after.columns["NOK"]
    assert "NOK" not in followed(after, products=[ChangedProduct("p0", None, "p1")]).columns


def test_places_are_kept_for_the_same_location_only() -> None:
    """A location that was upserted may have other tariffs."""
    snapshot = build_snapshot(1, [], [tariff("t0", 1), tariff("t3", 2)])
    place = PlaceKey("NO", "OSL", "moved")
    for one, price in ((location("moved", "t0"), 1), (location("moved", "t3"), 2)):
        found = place_prices(place, one, snapshot, "NOK", {}, NOW).prices
        assert price * 1_250_000 == (found.price_per_kwh if found else 0)
