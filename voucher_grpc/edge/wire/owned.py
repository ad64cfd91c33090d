"""Whose things a request names, and the refusal of those that the caller does not cover.

It is judged before the form of the request and before anything is read, so that a
foreign thing and one that does not exist look alike.
"""

from collections.abc import Callable, Iterable
from typing import Any

from voucher_grpc.access.principal import Reach, not_covered, party_name
from voucher_grpc.access.table import OwnershipCheck


def refuse_foreign_user(request: Any, reach: Reach) -> None:
    """Raises ACCESS_DENIED for a request on a user that the caller does not cover."""
    field, user_id = _user(request)
    # Without one nothing can be reached, and the check of form says what is missing.
    if user_id and user_id not in reach.users:
        raise not_covered(field, "user")


def refuse_foreign_parties(request: Any, reach: Reach) -> None:
    """Raises ACCESS_DENIED for a request on a party that the caller does not cover.

    The default tariff of a country is everybody's: whoever sets it takes it from another.
    """
    if not reach.parties.all:
        for index, tariff in enumerate(getattr(request, "tariffs", ())):
            if tariff.default_for_country:
                raise not_covered(f"tariffs[{index}].default_for_country", "country")
    for field, country_code, party_id in _parties(request):
        if party_name(country_code, party_id) not in reach.parties:
            raise not_covered(field, "party (country_code and party_id)")


def _user(request: Any) -> tuple[str, str]:
    """(field, user_id) of a request that is about one user."""
    for part in ("user", "vehicle", "token"):
        if part in request.DESCRIPTOR.fields_by_name:
            return f"{part}.user_id", getattr(request, part).user_id
    return "user_id", request.user_id


def _parties(request: Any) -> Iterable[tuple[str, str, str]]:
    """(field, country_code, party_id) of all that a request is about."""
    for part in ("locations", "tariffs"):
        if part in request.DESCRIPTOR.fields_by_name:
            for index, item in enumerate(getattr(request, part)):
                yield f"{part}[{index}].party_id", item.country_code, item.party_id
            return
    yield "party_id", request.country_code, request.party_id


# What the wrapper around a method checks; the rest by the methods, which know
# whose an offer or a vehicle is.
REFUSE_FOREIGN: dict[OwnershipCheck, Callable[[Any, Reach], None]] = {
    OwnershipCheck.USER: refuse_foreign_user,
    OwnershipCheck.PARTY: refuse_foreign_parties,
}
