"""Which of a user's places are known to a request, and which passes."""

from tests.conftest import Service
from tests.integration.shop import fetch, sessions
from voucher_grpc.store import queries


async def test_the_eight_greatest_places_are_known_equal_ones_by_name(
    fresh_service: Service,
) -> None:
    """Which places stand for a user must not depend on the order in which rows lie."""
    energies_wh = {f"P{number}": 10_000 for number in range(10)} | {"P0": 2_000, "P9": 40_000}
    sent = []
    for number, (name, energy_wh) in enumerate(reversed(energies_wh.items())):
        (session,) = sessions("alice", days=[3], location_id=name, energy_wh=energy_wh)
        session.session_id = f"s{number}"
        sent.append(session)
    sent += sessions("bob", days=[3], location_id="BOBS", energy_wh=99_000)
    report = await fresh_service.client.record_sessions([sent])
    assert (11, 0) == (report.recorded, report.refused)
    rows = await fetch(
        fresh_service.database_url,
        queries.load("knowledge")["knowledge"],
        ["alice", "bob", "carol"],
        ["", "", ""],
    )
    known = {row["user_id"]: row["location_ids"] for row in rows}
    assert ["P9", "P1", "P2", "P3", "P4", "P5", "P6", "P7"] == known["alice"]
    assert ["BOBS"] == known["bob"]
    assert known["carol"] is None
    weights = {row["user_id"]: row["weights"] for row in rows}["alice"]
    assert sorted(weights, reverse=True) == weights
