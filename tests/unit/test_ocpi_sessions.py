"""CDRs and Sessions of OCPI as sessions that count, each once."""

import json
from pathlib import Path
from typing import Any

import pytest

from voucher_grpc.errors import BadInput
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.ocpi_sessions import OcpiSessionFile, SessionDefaults, sessions_of
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

CDR: dict[str, Any] = {
    "country_code": "no",
    "party_id": "osl",
    "id": "c1",
    "start_date_time": "2026-11-01T20:00:00Z",
    "end_date_time": "2026-11-01T22:00:00Z",
    "cdr_token": {"uid": "alice", "contract_id": "contract"},
    "cdr_location": {"id": "L1", "evse_uid": "E1", "connector_id": "1"},
    "total_energy": "10.5",
}
SESSION: dict[str, Any] = {
    "country_code": "NO",
    "party_id": "OSL",
    "id": "s1",
    "start_date_time": "2026-11-01T20:00:00Z",
    "end_date_time": "2026-11-01T22:00:00Z",
    "kwh": 10.5,
    "cdr_token": {"uid": "alice"},
    "location_id": "L1",
    "evse_uid": "E1",
    "connector_id": "1",
    "status": "COMPLETED",
}
OLD_LOCATION = {
    "id": "L1",
    "time_zone": "Europe/Oslo",
    "evses": [{"uid": "E1", "connectors": [{"id": "1"}]}],
}
OLD_CDR: dict[str, Any] = {
    "id": "c1",
    "start_date_time": "2026-11-01T20:00:00Z",
    "stop_date_time": "2026-11-01T22:00:00Z",
    "auth_id": "alice",
    "location": OLD_LOCATION,
    "total_energy": 10.5,
}
OLD_SESSION: dict[str, Any] = {
    "id": "s1",
    "start_datetime": "2026-11-01T20:00:00Z",
    "end_datetime": "2026-11-01T22:00:00Z",
    "kwh": 10.5,
    "auth_id": "alice",
    "location": OLD_LOCATION,
    "status": "COMPLETED",
}
OPERATOR = SessionDefaults("NO", "OSL", "Europe/Oslo")


def read(document: dict[str, Any], **changes: Any) -> list[ChargingSession]:
    return list(sessions_of({**document, **changes}, Notes(), OPERATOR))


def only(document: dict[str, Any], **changes: Any) -> ChargingSession:
    [found] = read(document, **changes)
    return found


def cancelled(session: ChargingSession) -> tuple[str, str]:
    assert session.cancelled
    return session.user_id, session.session_id


def test_objects_of_all_versions_say_the_same() -> None:
    """A Session and a CDR, of 2.1.1 and later: they differ in their ids."""
    expected = only(CDR)
    assert (
        LocationReference(
            country_code="NO", party_id="OSL", location_id="L1", evse_uid="E1", connector_id="1"
        )
        == expected.location
    )
    assert ("c1", "alice", 10_500) == (
        expected.session_id,
        expected.user_id,
        expected.energy_wh,
    )
    assert 7_200 == expected.end_time.seconds - expected.start_time.seconds
    for document in (SESSION, OLD_CDR, OLD_SESSION):
        assert document["id"] == only(document).session_id
        assert expected == only(document, id="c1")


def test_a_cdr_replaces_the_session_that_it_names() -> None:
    """Which does not count, before or after; one that is named like the CDR is the CDR."""
    session, replaced = read(CDR, session_id="s1")
    assert ("c1", ("alice", "s1")) == (session.session_id, cancelled(replaced))
    assert "c1" == only(CDR, session_id="C1").session_id


@pytest.mark.parametrize("flag", [True, "true"])
def test_a_credit_cdr_takes_back_the_one_it_names(flag: object) -> None:
    """It is no charge itself, whatever it says of energy; the session does not count either."""
    assert [("alice", "c0")] == [
        cancelled(s) for s in read(CDR, credit=flag, credit_reference_id="c0", total_energy=-10.5)
    ]
    assert [("alice", "c0"), ("alice", "s1")] == [
        cancelled(s) for s in read(CDR, credit=flag, credit_reference_id="c0", session_id="s1")
    ]
    with pytest.raises(BadInput, match="credit_reference_id: is missing"):
        read(CDR, credit=flag)


def test_a_cdr_that_is_no_credit_is_a_charge() -> None:
    """`credit` false, or a reference alone."""
    for changes in ({"credit": False}, {"credit": None}, {"credit_reference_id": "c0"}):
        assert "c1" == only(CDR, **changes).session_id


@pytest.mark.parametrize("status", ["ACTIVE", "INVALID", "PENDING", "RESERVATION", "active"])
def test_only_completed_sessions_count(status: str) -> None:
    """The others are noted with their status."""
    notes = Notes()
    assert [] == sessions_of({**SESSION, "status": status}, notes, OPERATOR)
    [note] = notes.entries
    assert ("status", repr(status.upper())) == (note.path, note.value)
    assert "s1" == only(SESSION, status="Completed").session_id


def test_charging_at_home_for_a_compensation_does_not_count() -> None:
    """OCPI 2.2.1, 10.3.1, home_charging_compensation."""
    notes = Notes()
    assert [] == sessions_of({**CDR, "home_charging_compensation": True}, notes, OPERATOR)
    assert ["home_charging_compensation"] == [note.path for note in notes.entries]
    assert 1 == len(read(CDR, home_charging_compensation=False))


def test_a_connector_goes_with_its_evse_only() -> None:
    """The service refuses a connector without one: the location alone is stored."""
    for location, expected in (
        ({"id": "L1", "connector_id": "1"}, ("", "")),
        ({"id": "L1", "evse_uid": "", "connector_id": "1"}, ("", "")),
        ({"id": "L1", "evse_uid": "E1"}, ("E1", "")),
        ({"id": "L1", "evses": [{"uid": "E1"}, {"uid": "E2"}]}, ("", "")),
        ({"id": "L1", "evses": [{"uid": "E1", "connectors": [{"id": "1"}, {}]}]}, ("E1", "")),
        ({"id": "L1", "evses": [None]}, ("", "")),
    ):
        found = only(CDR, cdr_location=location).location
        assert expected == (found.evse_uid, found.connector_id)


def test_the_user_and_the_end_are_found_where_they_are() -> None:
    """The token's uid before its contract; an end may be missing; ids may be numbers."""
    assert "contract" == only(CDR, cdr_token={"uid": "", "contract_id": "contract"}).user_id
    assert not only(CDR, end_date_time=None).HasField("end_time")
    assert "17" == only(CDR, id=17).session_id
    assert "Europe/Oslo" == only(CDR).time_zone
    assert sessions_of(CDR, Notes(), SessionDefaults(correction=True))[0].correction
    assert (
        "Asia/Tokyo"
        == sessions_of(
            {**OLD_CDR, "location": {**OLD_LOCATION, "time_zone": "Asia/Tokyo"}},
            Notes(),
            SessionDefaults("JP", "TYO"),
        )[0].time_zone
    )


@pytest.mark.parametrize(
    ("document", "changes", "message"),
    [
        (CDR, {"cdr_location": None}, "location.id: is missing"),
        (CDR, {"cdr_location": []}, "location: must be an object"),
        (CDR, {"cdr_token": None}, "cdr_token: is missing"),
        (CDR, {"cdr_token": []}, "cdr_token: must be an object"),
        (CDR, {"cdr_token": {}}, "cdr_token.contract_id: is missing"),
        (CDR, {"id": []}, "id: must be text, not list"),
        (CDR, {"total_energy": True}, "total_energy: must be a number"),
        (CDR, {"total_energy": 1e18}, "total_energy: is out of range"),
        (CDR, {"start_date_time": ""}, "start_date_time: is missing"),
        (CDR, {"start_date_time": "soon"}, "start_date_time: must be a time such as "),
        (SESSION, {"kwh": None}, "kwh: is missing"),
        (SESSION, {"status": None}, "status: is missing"),
        (SESSION, {"location_id": None}, "location.id: is missing"),
        (CDR, {"id": "\ud800"}, "session: has text that is not Unicode"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(
    document: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    """One key, the first that is wrong."""
    with pytest.raises(BadInput) as refused:
        read(document, **changes)
    assert refused.value.message.startswith(message)


def test_an_object_without_an_operator_needs_one() -> None:
    """OCPI 2.1.1 names none."""
    with pytest.raises(BadInput, match="country_code: is missing: name the operator"):
        sessions_of(OLD_CDR, Notes(), SessionDefaults())
    with pytest.raises(BadInput, match="CDR: must be an object, not list"):
        sessions_of([], Notes())


def test_a_user_is_one_however_the_id_is_spelt(tmp_path: Path) -> None:
    """As the file spells it first; a credit too."""
    path = tmp_path / "cdrs.json"
    cdrs = [
        {**CDR, "cdr_token": {"uid": "DEADbeef"}},
        {**CDR, "id": "c2", "cdr_token": {"uid": "deadBEEF"}, "session_id": "s2"},
    ]
    path.write_text(json.dumps(cdrs))
    [batch] = OcpiSessionFile(path).batches()
    assert ["DEADbeef"] * 3 == [session.user_id for session in batch.sessions]
    assert [1, 2, 2] == batch.positions
