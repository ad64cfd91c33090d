"""Whether a caller may have offers for a user or a vehicle, and buy one.

A gateway may know vehicles only. Then what it may see is its vehicles' users', as far as
they are registered: the user is known once the vehicle is read, and a foreign vehicle and one
that does not exist are refused alike then, before anything else is judged.
"""

import time
from collections import OrderedDict
from typing import NamedTuple

from voucher_grpc.access.principal import EVERYTHING, Reach, not_covered
from voucher_grpc.domain.offers.knowledge import Knowledge
from voucher_grpc.domain.offers.request import OffersRequest
from voucher_grpc.domain.passes.purchase import Purchase
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.store.users import UserStore

# A vehicle that goes to another user may for so long be bought for under the old one, by a
# gateway that has an offer made to that user.
_OWNER_TTL_S = 60.0
_MAX_OWNERS = 100_000


class AuthorizedRequest(NamedTuple):
    """A request for offers, and what its caller may see."""

    request: OffersRequest
    reach: Reach = EVERYTHING


def authorize_request(request: OffersRequest, reach: Reach) -> AuthorizedRequest:
    """The request with what its caller may see.

    Raises ACCESS_DENIED before anything is read, where that is known already.
    """
    covered = reach is EVERYTHING or _covers(reach, request.user_id, request.vehicle_id)
    if request.user_id and not covered:
        raise not_covered("user_id", "user")
    return AuthorizedRequest(request, reach)


def authorize_result(
    authorized: AuthorizedRequest, found: Knowledge | BaseException
) -> Knowledge | BaseException:
    """What was found for a request, or the refusal of what the caller does not cover.

    It is judged before anything else of the answer, so that there is nothing to learn.
    """
    request, reach = authorized
    if reach is EVERYTHING:
        return found
    if isinstance(found, Knowledge):
        if found.user_id in reach.users:
            return found
        own = found.vehicle is not None and request.vehicle_id in reach.vehicles
        return found if own else _denied(request)
    about_vehicle = isinstance(found, Refusal) and found.reason in _ABOUT_VEHICLES
    if not about_vehicle or _covers(reach, request.user_id, request.vehicle_id):
        return found
    return _denied(request)


_ABOUT_VEHICLES = (Reason.VEHICLE_NOT_FOUND, Reason.VEHICLE_USER_MISMATCH)


def _covers(reach: Reach, user_id: str, vehicle_id: str) -> bool:
    return user_id in reach.users or (bool(vehicle_id) and vehicle_id in reach.vehicles)


def _denied(request: OffersRequest) -> Refusal:
    if request.user_id:
        return not_covered("user_id", "user")
    return not_covered("vehicle_id", "vehicle")


class VehicleOwners:
    """Whose vehicles are, for gateways that know vehicles only. At most 100,000 are kept."""

    def __init__(self, users: UserStore) -> None:
        self._users = users
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def seen(self, knowledge: Knowledge) -> None:
        """A vehicle was read with its user, as it is before a purchase."""
        if knowledge.vehicle is not None:
            self._keep(knowledge.vehicle.vehicle_id, knowledge.user_id)

    def _keep(self, vehicle_id: str, user_id: str) -> None:
        self._known[vehicle_id] = user_id, time.monotonic() + _OWNER_TTL_S
        self._known.move_to_end(vehicle_id)
        if len(self._known) > _MAX_OWNERS:
            self._known.popitem(last=False)

    async def refuse_foreign_purchase(self, purchase: Purchase, reach: Reach) -> None:
        """Raises ACCESS_DENIED unless the offer's user, or its vehicle, is covered."""
        if reach is EVERYTHING or purchase.user_id in reach.users:
            return
        vehicle_id = purchase.vehicle_id
        if vehicle_id and vehicle_id in reach.vehicles:
            user_id, until_s = self._known.get(vehicle_id, ("", 0.0))
            if time.monotonic() >= until_s:
                user_id = await self._users.owner_of(vehicle_id)
                if user_id:
                    self._keep(vehicle_id, user_id)
            if user_id == purchase.user_id:
                return
        raise not_covered("offer_id", "user")
