"""Charging sessions: each counted once, whoever sends it, in whatever order and how often."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest
from google.rpc import error_details_pb2 as details

from tests.conftest import Service, serving
from tests.integration.requests import location
from tests.integration.shop import fetch, habit, outcome, sessions
from voucher_grpc.client import CallFailed
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.location_service_pb2 import UpsertLocationsRequest
from voucher_grpc.v1.tendency_service_pb2 import (
    ChargingSession,
    DeclarePreferencesRequest,
    DeleteSessionsRequest,
    GetTendencyRequest,
    Preferences,
    ProfileType,
    RecordSessionsResponse,
    RefusedSession,
    Tendency,
)


async def tendency(service: Service, user_id: str) -> Tendency:
    request = GetTendencyRequest(user_id=user_id)
    found: Tendency = (
        await service.client.call(service.client.tendency.GetTendency, request)
    ).tendency
    return found


def counts(report: RecordSessionsResponse) -> tuple[int, int, int, int]:
    return report.recorded, report.unchanged, report.corrected, report.refused


def reason(refusal: RefusedSession) -> str:
    info = details.ErrorInfo()
    assert refusal.status.details[0].Unpack(info)
    return str(info.reason)


def close(one: Tendency, other: Tendency) -> bool:
    """The same habits, to a billionth."""
    return (
        one.sessions == other.sessions
        and one.energy_wh_per_30_days == pytest.approx(other.energy_wh_per_30_days, abs=1)
        and list(one.hour_of_week_shares)
        == pytest.approx(list(other.hour_of_week_shares), rel=1e-9)
        and [p.share for p in one.places]
        == pytest.approx([p.share for p in other.places], rel=1e-9)
        and [p.location for p in one.places] == [p.location for p in other.places]
    )


async def test_sending_all_of_it_again_changes_nothing(
    shared_service: Service, unique: str
) -> None:
    """The same content is unchanged."""
    sent = sessions(unique)
    reports = [await shared_service.client.record_sessions([sent]) for _ in range(2)]
    assert [(60, 0, 0, 0), (0, 60, 0, 0)] == [counts(report) for report in reports]
    assert 60 == (await tendency(shared_service, unique)).sessions


async def test_a_tendency_can_be_read(shared_service: Service, unique: str) -> None:
    """What is usual, how regular it is, where, and what is expected to come."""
    await habit(shared_service.client, unique)
    found = await tendency(shared_service, unique)
    assert 1 == pytest.approx(sum(found.hour_of_week_shares))
    assert 1 == pytest.approx(sum(found.plugged_in_shares))
    assert 0.4 < found.regularity < 0.7, "one hour of the day, all days of the week"
    assert found.mean_power_w == pytest.approx(
        found.energy_wh_per_session / found.dwell_s * 3600, abs=1
    )
    [operator] = found.operators
    assert 1 == pytest.approx(operator.share)
    coming = found.forecast
    assert 0 < coming.energy_low_wh < coming.energy_wh < coming.energy_high_wh
    assert coming.energy_wh == pytest.approx(found.energy_wh_per_30_days, rel=0.25)


async def test_other_content_is_a_conflict_unless_it_is_a_correction(
    shared_service: Service, unique: str
) -> None:
    """A conflict changes nothing; a correction replaces and rebuilds."""
    client = shared_service.client
    await habit(client, unique, days=range(5))
    before = await tendency(shared_service, unique)
    [changed] = sessions(unique, days=[2], energy_wh=99_000)
    report = await client.record_sessions([[changed]])
    assert (0, 0, 0, 1) == counts(report)
    assert "SESSION_CONFLICT" == reason(report.refusals[0])
    assert close(before, await tendency(shared_service, unique))
    changed.correction = True
    assert (0, 0, 1, 0) == counts(await client.record_sessions([[changed]]))
    assert (0, 1, 0, 0) == counts(await client.record_sessions([[changed]]))
    corrected = await tendency(shared_service, unique)
    assert 5 == corrected.sessions
    twin = [
        *sessions(f"{unique}x", days=[0, 1, 3, 4]),
        *sessions(f"{unique}x", days=[2], energy_wh=99_000),
    ]
    await client.record_sessions([twin])
    assert close(await tendency(shared_service, f"{unique}x"), corrected)


async def test_a_correction_moves_a_session_to_its_place(
    shared_service: Service, unique: str
) -> None:
    """The old place is forgotten."""
    client = shared_service.client
    await habit(client, unique, days=range(2))
    moved = sessions(unique, days=range(2), location_id="WORK")
    for session in moved:
        session.correction = True
    await client.record_sessions([moved])
    [place] = (await tendency(shared_service, unique)).places
    assert "WORK" == place.location.location_id
    assert 1 == pytest.approx(place.share)


async def test_duplicates_in_one_message_count_once(shared_service: Service, unique: str) -> None:
    """As if they had come one after the other."""
    [one] = sessions(unique, days=[1])
    [other] = sessions(unique, days=[1], energy_wh=1)
    report = await shared_service.client.record_sessions([[one, one, other], [one]])
    assert (1, 2, 0, 1) == counts(report)
    assert [(2, "SESSION_CONFLICT")] == [(r.index, reason(r)) for r in report.refusals]


async def test_a_report_counts_positions_over_the_whole_stream(
    shared_service: Service, unique: str
) -> None:
    """Good sessions are kept, bad ones named by their position."""
    batches = [sessions(unique, days=range(n * 10, n * 10 + 10)) for n in range(3)]
    batches[0][3].energy_wh = -1
    batches[2][0].user_id = ""
    batches[2][9].session_id = "x" * 100
    report = await shared_service.client.record_sessions(batches)
    assert (27, 0, 0, 3) == counts(report)
    assert [(3, f"{unique}-3"), (20, f"{unique}-20"), (29, "x" * 64)] == [
        (r.index, r.session_id) for r in report.refusals
    ]
    assert {"INVALID_FIELD"} == {reason(r) for r in report.refusals}


async def test_at_most_1000_refusals_are_reported(shared_service: Service, unique: str) -> None:
    """All are counted."""
    bad = [ChargingSession(session_id=f"{unique}-{n}") for n in range(600)]
    report = await shared_service.client.record_sessions([bad, bad])
    assert (1200, 1000) == (report.refused, len(report.refusals))


async def test_a_message_of_1000_is_taken_and_one_of_1001_is_refused(
    shared_service: Service, unique: str
) -> None:
    """What came before it is kept."""
    sent = sessions(unique, days=range(1001))
    client = shared_service.client
    assert (1000, 0, 0, 0) == counts(await client.record_sessions([sent[:1000]]))
    with pytest.raises(CallFailed) as failed:
        await client.record_sessions([sent[1000:], sent])
    assert ("INVALID_FIELD", {"sessions"}) == (failed.value.reason, set(failed.value.violations))
    assert 1001 == (await tendency(shared_service, unique)).sessions


async def test_an_empty_stream_and_an_empty_message_are_fine(shared_service: Service) -> None:
    """Nothing was sent, nothing was wrong."""
    nothing: list[list[list[ChargingSession]]] = [[], [[]], [[], []]]
    for batches in nothing:
        assert (0, 0, 0, 0) == counts(await shared_service.client.record_sessions(batches))


async def test_a_place_that_is_not_known_needs_a_zone(shared_service: Service, unique: str) -> None:
    """TIME_ZONE_UNKNOWN; the others are kept."""
    sent = sessions(unique, days=range(3))
    sent[1].time_zone = ""
    report = await shared_service.client.record_sessions([sent])
    assert (2, 0, 0, 1) == counts(report)
    assert [(1, "TIME_ZONE_UNKNOWN")] == [(r.index, reason(r)) for r in report.refusals]


async def test_the_zone_of_a_known_location_counts(shared_service: Service, unique: str) -> None:
    """Whatever was sent: 23:00 UTC is 08:00 the next day in Tokyo."""
    client = shared_service.client
    place = location(unique)
    place.time_zone = "Asia/Tokyo"
    await client.call(client.location.UpsertLocations, UpsertLocationsRequest(locations=[place]))
    sent = sessions(unique, days=range(7))
    for number, session in enumerate(sent):
        session.location.CopyFrom(
            LocationReference(country_code="NO", party_id="OSL", location_id=unique)
        )
        session.time_zone = ("", "Europe/Oslo")[number % 2]
    assert (7, 0, 0, 0) == counts(await client.record_sessions([sent]))
    hours = (await tendency(shared_service, unique)).hour_of_week_shares
    assert {8} == {hour % 24 for hour, share in enumerate(hours) if share}


async def test_a_server_that_gets_sessions_only_sees_each_change_of_a_location(
    fresh_service: Service,
) -> None:
    """A session is stored for good with its zone, so what another was told counts."""
    client = fresh_service.client
    first, second, third = sessions("alice", location_id="DEPOT", days=range(3))
    for session in (first, second, third):
        session.time_zone = ""

    async def put(time_zone: str) -> None:
        place = location("DEPOT")
        place.party_id, place.time_zone = "TST", time_zone
        request = UpsertLocationsRequest(locations=[place])
        await client.call(client.location.UpsertLocations, request)

    async with serving(fresh_service.database_url) as other:
        report = await other.client.record_sessions([[first]])
        assert ["TIME_ZONE_UNKNOWN"] == [reason(refusal) for refusal in report.refusals]
        await put("Asia/Tokyo")
        assert 2 == (await other.client.record_sessions([[first, second]])).recorded
        await put("America/Lima")
        assert 1 == (await other.client.record_sessions([[third]])).recorded
    stored = await fetch(
        fresh_service.database_url, "SELECT time_zone FROM sessions ORDER BY start_time DESC"
    )
    zones = [row["time_zone"] for row in stored]
    assert ["Asia/Tokyo", "Asia/Tokyo", "America/Lima"] == zones


@pytest.mark.parametrize(
    ("start", "good"),
    [
        (datetime(2009, 12, 31, 23, 59, 59, tzinfo=UTC), False),
        (datetime(2010, 1, 1, tzinfo=UTC), True),
        (timedelta(hours=23), True),
        (timedelta(hours=25), False),
    ],
)
async def test_a_session_is_not_before_2010_nor_more_than_a_day_ahead(
    shared_service: Service, unique: str, start: datetime | timedelta, good: bool
) -> None:
    """Both bounds, by the database's clock."""
    [session] = sessions(unique, days=[0])
    session.ClearField("end_time")
    at = start if isinstance(start, datetime) else datetime.now(UTC) + start
    session.start_time.CopyFrom(timestamp(at))
    report = await shared_service.client.record_sessions([[session]])
    assert (int(good), int(not good)) == (report.recorded, report.refused)


async def test_clients_that_send_the_same_at_once_count_it_once(
    shared_service: Service, unique: str
) -> None:
    """Eight clients, each all sessions of five users in an order and batches of its own."""
    users = [f"{unique}-{n}" for n in range(5)]
    everything = [session for user in users for session in sessions(user)]

    async def send(seed: int) -> tuple[int, int, int, int]:
        order = list(everything)
        random.Random(seed).shuffle(order)
        size = 40 + 10 * seed
        batches = [order[n : n + size] for n in range(0, len(order), size)]
        return counts(await shared_service.client.record_sessions(batches))

    reports = await asyncio.gather(*(send(seed) for seed in range(8)))
    assert len(everything) == sum(report[0] for report in reports)
    assert 7 * len(everything) == sum(report[1] for report in reports)
    await shared_service.client.record_sessions([sessions(f"{unique}-alone")])
    alone = await tendency(shared_service, f"{unique}-alone")
    for user in users:
        assert close(alone, await tendency(shared_service, user))


async def test_a_tendency_is_readable(shared_service: Service, unique: str) -> None:
    """Times, rates and shares of a habit of 10 kWh each night at 23:00 UTC."""
    sent = sessions(unique)
    await shared_service.client.record_sessions([sent])
    found = await tendency(shared_service, unique)
    starts = sorted(session.start_time.seconds for session in sent)
    assert (starts[0], starts[-1]) == (
        found.first_session_time.seconds,
        found.last_session_time.seconds,
    )
    assert (10_000, 6 * 3600) == (found.energy_wh_per_session, found.dwell_s)
    assert 300_000 == pytest.approx(found.energy_wh_per_30_days, rel=0.1)
    assert 30 == pytest.approx(found.sessions_per_30_days, rel=0.1)
    assert 1 == pytest.approx(found.night_share)
    assert 168 == len(found.hour_of_week_shares)
    assert 1 == pytest.approx(sum(found.hour_of_week_shares))
    assert ["HOME"] == [place.location.location_id for place in found.places]


async def test_the_eight_greatest_places_are_shown(shared_service: Service, unique: str) -> None:
    """The greatest first; their shares are of all of the energy."""
    sent = []
    for n in range(10):
        sent += sessions(f"{unique}", days=[n], energy_wh=1000 * (n + 1), location_id=f"P{n}")
    await shared_service.client.record_sessions([sent])
    places = (await tendency(shared_service, unique)).places
    shares = [place.share for place in places]
    assert 8 == len(places)
    assert shares == sorted(shares, reverse=True)
    assert 0.9 < sum(shares) < 1


async def test_wishes_replace_those_before_and_need_no_sessions(
    shared_service: Service, unique: str
) -> None:
    """A user of whom nothing else is known is known by them."""
    client = shared_service.client
    assert "USER_NOT_FOUND" == await outcome(tendency(shared_service, unique))
    for wish in (ProfileType.PROFILE_TYPE_CHEAP, ProfileType.PROFILE_TYPE_GREEN):
        wishes = Preferences(profile_type=wish)
        request = DeclarePreferencesRequest(user_id=unique, preferences=wishes)
        answer = await client.call(client.tendency.DeclarePreferences, request)
        assert wishes == answer.preferences
        found = await tendency(shared_service, unique)
        assert (0, wishes) == (found.sessions, found.preferences)
    await habit(client, unique)
    found = await tendency(shared_service, unique)
    assert (60, ProfileType.PROFILE_TYPE_GREEN) == (found.sessions, found.preferences.profile_type)


async def test_a_session_without_energy_is_a_session(shared_service: Service, unique: str) -> None:
    """It counts, and there are no habits yet."""
    await shared_service.client.record_sessions([sessions(unique, days=[1], energy_wh=0)])
    found = await tendency(shared_service, unique)
    assert (1, 0, 0) == (
        found.sessions,
        found.energy_wh_per_30_days,
        len(found.hour_of_week_shares),
    )


def cancelled(session: ChargingSession) -> ChargingSession:
    return ChargingSession(user_id=session.user_id, session_id=session.session_id, cancelled=True)


async def delete(service: Service, user_id: str, *session_ids: str) -> list[str]:
    """Those that were there."""
    request = DeleteSessionsRequest(user_id=user_id, session_ids=session_ids)
    answer = await service.client.call(service.client.tendency.DeleteSessions, request)
    return list(answer.session_ids)


@pytest.mark.parametrize("order", ["before", "after", "together before", "together after"])
async def test_a_cancelled_session_does_not_count_in_any_order(
    shared_service: Service, unique: str, order: str
) -> None:
    """The tendency is that of the other sessions, as if there had been no others."""
    client = shared_service.client
    sent = sessions(unique, days=range(20))
    gone = [cancelled(session) for session in sent[:5]]
    messages = {
        "before": [gone, sent],
        "after": [sent, gone],
        "together before": [gone + sent],
        "together after": [sent + gone],
    }[order]
    report = await client.record_sessions(messages)
    late = order == "after"
    assert (20 if late else 15, 5 if late else 10) == (report.recorded, report.cancelled)
    assert 0 == report.refused
    others = [ChargingSession() for _ in sent[5:]]
    for other, session in zip(others, sent[5:], strict=True):
        other.CopyFrom(session)
        other.user_id = f"{unique}-other"
    await client.record_sessions([others])
    found = await tendency(shared_service, unique)
    assert close(found, await tendency(shared_service, f"{unique}-other"))
    again = await client.record_sessions([sent])
    assert (0, 15, 5) == (again.recorded, again.unchanged, again.cancelled)
    stored = await fetch(
        shared_service.database_url, "SELECT count(*) FROM sessions WHERE user_id = $1", unique
    )
    assert 15 == stored[0][0]


async def test_a_user_whose_sessions_are_all_cancelled_is_not_known(
    shared_service: Service, unique: str
) -> None:
    """Nothing is left of the tendency; a later session begins anew."""
    client = shared_service.client
    sent = sessions(unique, days=range(3))
    await client.record_sessions([sent, [cancelled(session) for session in sent]])
    assert "USER_NOT_FOUND" == await outcome(tendency(shared_service, unique))
    rows = await fetch(
        shared_service.database_url,
        "SELECT (SELECT count(*) FROM tendency_places WHERE user_id = $1), sessions, "
        "first_session_time FROM tendencies WHERE user_id = $1",
        unique,
    )
    assert (0, 0, None) == tuple(rows[0])
    await client.record_sessions([sessions(unique, days=[7])])
    assert 1 == (await tendency(shared_service, unique)).sessions


async def test_a_cancellation_needs_no_more_than_its_ids(
    shared_service: Service, unique: str
) -> None:
    """Without them it is refused like any session."""
    bad = [
        ChargingSession(user_id=unique, cancelled=True),
        ChargingSession(session_id="x", cancelled=True),
    ]
    report = await shared_service.client.record_sessions([bad])
    assert ["INVALID_FIELD"] * 2 == [reason(refusal) for refusal in report.refusals]


async def test_deleted_sessions_do_not_count_and_can_be_recorded_again(
    shared_service: Service, unique: str
) -> None:
    """So can one that was cancelled; ids that are not there, or another user's, are left alone."""
    client = shared_service.client
    sent = sessions(unique, days=range(10))
    await client.record_sessions([sent, sessions(f"{unique}-other", days=range(10))])
    await client.record_sessions([[cancelled(sent[0])]])
    ids = [session.session_id for session in sent]
    assert ids[1:4] == await delete(shared_service, unique, *ids[:4], "none", ids[1])
    assert 6 == (await tendency(shared_service, unique)).sessions
    assert 10 == (await tendency(shared_service, f"{unique}-other")).sessions
    again = await client.record_sessions([sent])
    assert (4, 6, 0) == (again.recorded, again.unchanged, again.cancelled)
    assert ids == await delete(shared_service, unique, *ids)
    assert "USER_NOT_FOUND" == await outcome(tendency(shared_service, unique))
    assert [] == await delete(shared_service, unique, *ids)
