"""The catalogue in columns, so that all products are valued at once.

Products share few distinct conditions, so hours ("when") and places ("where")
are judged once for each distinct one and looked up by number for each product.
Products that differ in amount and price only form a cell: what charging inside
them costs is the same.

In a cell a product that gives at least as much for less money saves more in
every scenario of every user. `dominance_rank` counts those better ones, so a user who
wants three offers has them among the products of a depth below three: of ten
thousand products only these are valued (see `Selection`).
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np

from voucher_grpc.domain.catalogue.product import (
    Product,
)
from voucher_grpc.domain.offers.caches import PlaceConditionCache
from voucher_grpc.domain.offers.cells import (
    BUNDLES,
    PRICE_ROW,
    Cell,
    Cells,
    Compiled,
    Integers,
    Kind,
    PlaceCondition,
    TimeCondition,
    compile_product,
)
from voucher_grpc.domain.offers.reason_codes import Mentioned
from voucher_grpc.domain.tendencies.forecast import BLOCK_OF_HOUR, BLOCKS
from voucher_grpc.domain.tendencies.tendency import PERIOD_DAYS, Flags, Vector
from voucher_grpc.ocpi import PowerType

T = TypeVar("T")


class UsablePeriod(NamedTuple):
    """From when to when passes of each cell can be used, in days from now, inside the dates of
    their conditions; and how many periods of 30 days that is."""

    today: int  # the ordinal of the day
    first_day: Vector
    last_day: Vector
    periods: Vector


# Sizes of one pass that differ by less than this factor are near-duplicates.
NEAR = 1.5


class Size(NamedTuple):
    """One of the products that differ in amount, price and sale window only (a family).

    `size` is what distinguishes them: what a bundle holds, else what the pass costs;
    of what is `given` more is better.
    """

    family: int
    size: float
    given: float
    price: float

    def is_near(self, other: "Size") -> bool:
        """Whether beside this one the other, of the same family, is a near-duplicate."""
        return max(self.size, other.size) < NEAR * min(self.size, other.size)

    def is_never_worse(self, other: "Size") -> bool:
        """Whether the other, of the same family, gives no more for no less money."""
        return self.given >= other.given and self.price <= other.price


@dataclass(frozen=True, slots=True)
class Selection:
    """The products that are valued, those of a kind side by side.

    `sizes` say which are near-duplicates, `tie` is less than 1 and rises with the row.
    `rows` are their rows in the catalogue, `amount` is what the benefit gives
    (kWh, sessions, micro-units per kWh or a share), `per_period` makes a saving
    one of 30 days where the pass lasts longer, `least_period` is the pass's life
    in periods of 30 days, one at most.
    """

    rows: Integers
    sizes: Sequence[Size]
    tie: Vector
    cell: Integers
    kinds: Mapping[Kind, slice]
    amount: Vector
    price: Vector
    per_period: Vector
    least_period: Vector
    position: Mapping[int, int]

    def __len__(self) -> int:
        return len(self.rows)


# From this rank on products are not distinguished; for a user who excludes so many all are valued.
MAX_DOMINANCE_RANK = 256
_SELECTION_RANKS = (1, 3, 4, 6, 10, 24, 64, MAX_DOMINANCE_RANK)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One row a product. Prices in micro-units, amounts in Wh, sessions, micro-units per
    kWh or shares, lengths in days, sale window in seconds since 1970.

    `dominance_rank` is how many products of the same cell are better for every user.
    """

    products: Sequence[Product]
    compiled: Sequence[Compiled]
    price: Vector
    kind: Integers
    is_bundle: Flags
    amount: Vector
    length_days: Vector
    sale_from: Vector
    sale_until: Vector
    dominance_rank: Integers
    cell: Integers
    cells: Cells
    time_conditions: Sequence[TimeCondition]
    place_conditions: Sequence[PlaceCondition]
    time_condition_hours: Vector  # 168 by whens
    time_condition_blocks: Vector  # 168 by (blocks of the week, whens): an hour counts in its block
    bounded_time_conditions: Sequence[int]  # those with bounds on a session's energy
    family: Integers  # products that differ in amount, price and sale window only
    fast_cells: Flags
    row_of: Mapping[str, int]
    default_rows: Sequence[int]  # the cheapest first
    always_on_sale: bool
    _selections: dict[int, Selection] = field(default_factory=dict)
    _usable_periods: dict[int, UsablePeriod] = field(default_factory=dict)
    covered: PlaceConditionCache = field(default_factory=PlaceConditionCache)
    mentioned: dict[int, Mentioned] = field(default_factory=dict)  # see `reasons`

    def __len__(self) -> int:
        return len(self.products)

    def selection(self, wanted: int) -> Selection:
        """The products among which every user's best `wanted` are, and all default ones."""
        dominance_rank = next((d for d in _SELECTION_RANKS if d >= wanted), 0)
        found = self._selections.get(dominance_rank)
        if found is None:
            found = self._selections[dominance_rank] = self._select(dominance_rank)
        return found

    def select_as(self, before: "Columns") -> None:
        """Make what requests for offers have asked of others, lest the next one waits for it."""
        for dominance_rank in before._selections:
            if dominance_rank:  # all products are asked for by explanations only
                self.selection(dominance_rank)

    def size_of(self, row: int) -> Size:
        """Which size of which pass a product is."""
        price, amount = self.price.item(row), self.amount.item(row)
        kind = self.kind.item(row)
        return Size(
            self.family.item(row),
            amount if kind in (Kind.ENERGY_BUNDLE, Kind.SESSION_BUNDLE) else price,
            -amount if kind == Kind.ENERGY_PRICE else amount,
            price,
        )

    def everything(self) -> Selection:
        """All products."""
        return self.selection(MAX_DOMINANCE_RANK + 1)

    def _select(self, dominance_rank: int) -> Selection:
        chosen = (
            np.ones(len(self), dtype=bool)
            if not dominance_rank
            else self.dominance_rank < dominance_rank
        )
        chosen[list(self.default_rows)] = True
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(self.kind[rows], kind="stable")]
        ends = np.searchsorted(self.kind[rows], np.arange(len(Kind) + 1)).tolist()
        kinds = {kind: slice(ends[kind], ends[kind + 1]) for kind in Kind}
        amount = self.amount[rows]
        amount[kinds[Kind.ENERGY_BUNDLE]] /= 1000
        length = self.length_days[rows]
        return Selection(
            rows=rows,
            sizes=[self.size_of(row) for row in rows.tolist()],
            tie=rows / (len(self) + 1),
            cell=self.cell[rows],
            kinds={kind: part for kind, part in kinds.items() if part.start < part.stop},
            amount=amount,
            price=self.price[rows],
            per_period=PERIOD_DAYS / np.maximum(PERIOD_DAYS, length),
            least_period=np.minimum(1.0, length / PERIOD_DAYS),
            position={row: position for position, row in enumerate(rows.tolist())},
        )

    def usable_period(self, today: int) -> UsablePeriod:
        """The lives of passes bought on the day with this ordinal, by cell."""
        found = self._usable_periods.get(today)
        if found is None:
            self._usable_periods.clear()  # a day is not asked for again once it has passed
            cells = self.cells
            start = np.where(np.isfinite(cells.start_day), cells.start_day, today)
            first = np.maximum(cells.first_day, np.maximum(start, today))
            last = np.minimum(cells.last_day, start + cells.length_days)
            periods = np.maximum(0.0, last - first) / PERIOD_DAYS
            found = self._usable_periods[today] = UsablePeriod(
                today, first - today, last - today, periods
            )
        return found


def _depths(cells: Integers, kinds: Integers, price: Vector, amount: Vector) -> Integers:
    """For each product how many of its cell are better: they cost less, or the same and
    come earlier, and give no less."""
    given = np.where(kinds == Kind.ENERGY_PRICE, -amount, amount).tolist()
    dominance_rank = np.zeros(len(cells), dtype=np.int64)
    seen: dict[int, list[float]] = {}
    for row in np.argsort(price, kind="stable").tolist():
        cheaper = seen.setdefault(int(cells[row]), [])
        dominance_rank[row] = len(cheaper) - bisect_left(cheaper, given[row])
        insort(cheaper, given[row])
    return dominance_rank


def _floats(values: Iterable[float]) -> Vector:
    return np.array(list(values), dtype=np.float64)


def _cells(cells: Sequence[Cell], place_condition: Integers, time_condition: Integers) -> Cells:
    of_kind = {
        kind: np.array([n for n, cell in enumerate(cells) if cell.kind is kind], dtype=np.int64)
        for kind in sorted({cell.kind for cell in cells})
    }
    return Cells(
        place_condition=place_condition,
        time_condition=time_condition,
        length_days=_floats(cell.length_days for cell in cells),
        first_day=_floats(cell.first_day for cell in cells),
        last_day=_floats(cell.last_day for cell in cells),
        start_day=_floats(cell.start_day for cell in cells),
        session_cap_wh=_floats(cell.session_cap_wh for cell in cells),
        price_row=np.array([PRICE_ROW[cell.kind] for cell in cells], dtype=np.int64),
        of_kind=of_kind,
    )


def _by_block(hours: Vector) -> Vector:
    blocks = BLOCK_OF_HOUR[:, None, None] == np.arange(BLOCKS)[:, None]
    return np.ascontiguousarray((hours[:, None, :] * blocks).reshape(len(hours), -1))


def _families(cells: Sequence[Cell]) -> Integers:
    numbers: dict[Cell, int] = {}
    whenever = (replace(cell, sale_from=0.0, sale_until=0.0) for cell in cells)
    found = [numbers.setdefault(cell, len(numbers)) for cell in whenever]
    return np.array(found, dtype=np.int64)


# What an operator would call fast charging: DC, or as much power as only DC gives.

FAST_POWER_W = 50_000


def is_fast(place_condition: PlaceCondition) -> bool:
    """Whether a pass is for fast charging only."""
    selectors = place_condition.selectors
    return (
        selectors.power_types == {PowerType.DC}
        or (selectors.min_connector_power_w or 0) >= FAST_POWER_W
        or (
            bool(place_condition.power_bounds)
            and all((low or 0) >= FAST_POWER_W for low, _ in place_condition.power_bounds)
        )
    )


def _fast(place_condition: Integers, place_conditions: Iterable[PlaceCondition]) -> Flags:
    fast = np.array(
        [is_fast(place_condition) for place_condition in place_conditions], dtype=np.bool_
    )
    return fast[place_condition]


def _numbered(
    compiled: Sequence[Compiled],
) -> tuple[Integers, Sequence[Cell], Sequence[Compiled]]:
    """The number of each product's cell, the distinct cells in the order of their numbers, and
    the same with one object for equal cells."""
    numbers: dict[Cell, int] = {}
    by_identity: dict[int, int] = {}
    cells: list[Cell] = []
    found, merged = [], []
    for one in compiled:
        number = by_identity.get(id(one.cell))
        if number is None:
            number = by_identity[id(one.cell)] = numbers.setdefault(one.cell, len(cells))
            if number == len(cells):
                cells.append(one.cell)
        found.append(number)
        merged.append(one if one.cell is cells[number] else Compiled(cells[number], one.amount))
    return np.array(found, dtype=np.int64), cells, merged


def _distinct(values: Iterable[T]) -> tuple[Integers, Sequence[T]]:
    """The number of each value, and the distinct ones in the order of their numbers."""
    numbers: dict[T, int] = {}
    found = [numbers.setdefault(value, len(numbers)) for value in values]
    return np.array(found, dtype=np.int64), list(numbers)


def build_columns(
    products: Sequence[Product], compiled: Sequence[Compiled] | None = None
) -> Columns:
    """Columns of products that share a currency; `compiled` is of each, if it is known already."""
    if compiled is None:
        known: dict[Cell, Cell] = {}
        compiled = [compile_product(product, known) for product in products]
    cell_of, cells, compiled = _numbered(compiled)
    place_condition, place_conditions = _distinct(cell.place_condition for cell in cells)
    time_condition, time_conditions = _distinct(cell.time_condition for cell in cells)
    kind = np.array([cell.kind for cell in cells], dtype=np.int64)[cell_of]
    price = _floats(p.terms.price.micros for p in products)
    amount = _floats(amount for _, amount in compiled)
    sale_from = _floats(cell.sale_from for cell in cells)
    sale_until = _floats(cell.sale_until for cell in cells)
    defaults = [row for row, product in enumerate(products) if product.terms.default_offer]
    hours = np.array(
        [time_condition.hours for time_condition in time_conditions], dtype=np.float64
    ).reshape(-1, 168)
    return Columns(
        products=products,
        compiled=compiled,
        price=price,
        kind=kind,
        is_bundle=np.isin(kind, BUNDLES),
        amount=amount,
        length_days=_floats(cell.length_days for cell in cells)[cell_of],
        sale_from=sale_from[cell_of],
        sale_until=sale_until[cell_of],
        dominance_rank=_depths(cell_of, kind, price, amount),
        cell=cell_of,
        cells=_cells(cells, place_condition, time_condition),
        time_conditions=time_conditions,
        place_conditions=place_conditions,
        time_condition_hours=np.ascontiguousarray(hours.T),
        time_condition_blocks=_by_block(hours.T),
        bounded_time_conditions=[
            number
            for number, time_condition in enumerate(time_conditions)
            if time_condition.min_energy_wh or time_condition.max_energy_wh is not None
        ],
        family=_families(cells)[cell_of],
        fast_cells=_fast(place_condition, place_conditions),
        row_of={product.product_id: row for row, product in enumerate(products)},
        default_rows=sorted(defaults, key=lambda row: (price[row], row)),
        always_on_sale=bool(np.isinf(sale_from).all() and np.isinf(sale_until).all()),
    )


def rebuild_columns(
    before: Columns | None, products: Sequence[Product], fresh: Mapping[str, Compiled]
) -> Columns:
    """Columns after some products have changed; `fresh` has what is compiled of those.

    What is known of the others is taken over, and so is which wheres places are inside,
    if the wheres are the same.
    """
    if before is None:
        return build_columns(products, [fresh[product.product_id] for product in products])
    compiled = []
    for product in products:
        found = fresh.get(product.product_id)
        if found is None:
            found = before.compiled[before.row_of[product.product_id]]
        compiled.append(found)
    columns = build_columns(products, compiled)
    if columns.place_conditions == before.place_conditions:
        columns = replace(columns, covered=before.covered)
    columns.select_as(before)
    return columns
