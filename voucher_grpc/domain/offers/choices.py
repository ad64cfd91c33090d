"""What a ranking is made for, and what it chooses."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from voucher_grpc.domain.catalogue.product import (
    Product,
)
from voucher_grpc.domain.offers.knowledge import ActivePass
from voucher_grpc.domain.offers.reasons import (
    BreakEven,
    OfferReason,
)
from voucher_grpc.domain.offers.valuation import (
    PayAsYouGo,
)
from voucher_grpc.domain.passes.purchase import Bought
from voucher_grpc.domain.places.location import VehicleProfile


class EmptyReason(StrEnum):
    """Why no offer can be made."""

    NOTHING_ON_SALE = "NOTHING_ON_SALE"
    LIMITS_REACHED = "LIMITS_REACHED"
    NOTHING_FITS = "NOTHING_FITS"


class Choice(NamedTuple):
    """A product chosen for a user; money in micro-units, None where nothing is known.

    What is expected is rounded to a hundredth of the currency's unit.

    In eight of ten scenarios the saving is between the two of `saving_range_micros`.
    """

    product: Product
    recommended: bool
    expected_saving_micros: int | None
    saving_range_micros: tuple[int, int] | None
    break_even: BreakEven | None
    reasons: Sequence[OfferReason]


class Ranking(NamedTuple):
    """The choices, best first, or why there is none."""

    choices: Sequence[Choice]
    empty_reason: EmptyReason | None = None
    pay_as_you_go: PayAsYouGo | None = None


NO_PASSES: Mapping[str, ActivePass] = MappingProxyType({})


class Buyer(NamedTuple):
    """What decides which products a user can buy now and use at all, and what the user wishes.

    `owned` are the passes that can be used now or later, by product; `profile_type`
    is the declared wish, "" for none.
    """

    bought: Sequence[Bought]
    owned: Mapping[str, ActivePass]
    vehicle: VehicleProfile
    sold_out: frozenset[str] = frozenset()
    profile_type: str = ""
