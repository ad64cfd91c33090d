"""What a server saw last, for the calls that may be answered from it while the database is away.

Only what can be answered just as the store would have answered at that instant. Offers and
purchases are not among it: stock, limits and prices would be promised without ground.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from voucher_grpc.domain.catalogue.product import Product
from voucher_grpc.errors import StoreUnavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """A value; `stale_since` is the instant as of which it was so, None: it is so now."""

    value: T
    stale_since: datetime | None = None


async def read_or_stale(read: Awaitable[T], last_known: Callable[[], Seen[T] | None]) -> Seen[T]:
    """What is read, or, while the database is away, what is known of it.

    Raises StoreUnavailable if nothing is.
    """
    try:
        return Seen(await read)
    except StoreUnavailable:
        seen = last_known()
        if seen is None:
            raise
        return seen


class StaleCatalogue:
    """The active products at their current revisions, as offers are made from them."""

    def __init__(self) -> None:
        self._products: Mapping[str, Product] = {}
        self._as_of: datetime | None = None

    def saw(self, products: Mapping[str, Product], as_of: datetime) -> None:
        """A new snapshot; the products in the store's order."""
        self._products, self._as_of = products, as_of

    def product(self, product_id: str, revision: int) -> Seen[Product] | None:
        """A product, unless another revision than the current one (0) is wanted."""
        product = self._products.get(product_id)
        if product is None or revision not in (0, product.revision):
            return None
        return Seen(product, self._as_of)

    def page(self, after: str, show_retired: bool, limit: int) -> Seen[Sequence[Product]] | None:
        """Up to `limit` products after one that is known; without retired ones, which are not."""
        if self._as_of is None or show_retired or (after and after not in self._products):
            return None
        ids = list(self._products)
        start = ids.index(after) + 1 if after else 0
        return Seen([self._products[i] for i in ids[start : start + limit]], self._as_of)
