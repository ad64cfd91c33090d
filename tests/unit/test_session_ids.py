"""Ids of files that are evaluated only."""

import pytest

from voucher_grpc.evaluation.session_ids import SessionIds
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession


def session(
    session_id: str, user_id: str = "u", place: str = "L", evse: str = ""
) -> ChargingSession:
    location = LocationReference(location_id=place, evse_uid=evse)
    return ChargingSession(session_id=session_id, user_id=user_id, location=location)


@pytest.mark.parametrize("bad", ["a b", "\u00e9", "x" * 65, "tab\t"])
def test_ids_that_the_service_refuses_are_told_apart_and_stay_the_same(bad: str) -> None:
    """The same id gets the same one; another one, and one of another kind, do not."""
    ids = SessionIds()
    first, again, other = (session(name, name, name, name) for name in (bad, bad, bad + "!"))
    for one in (first, again, other):
        ids.replace(one)
    assert first == again
    for a, b in (
        (first.session_id, other.session_id),
        (first.user_id, other.user_id),
        (first.location.location_id, other.location.location_id),
        (first.location.evse_uid, other.location.evse_uid),
    ):
        assert a != b
        assert a.isascii()
        assert " " not in a
        assert 36 >= len(a)


def test_ids_that_the_service_takes_stay() -> None:
    """Users that parameters were fitted on are known by their ids."""
    good = session("s" * 64, "user-1", "L" * 36, "E")
    made = session("s" * 64, "user-1", "L" * 36, "E")
    SessionIds().replace(made)
    assert good == made
