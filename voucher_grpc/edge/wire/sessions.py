"""Sessions and tendencies between messages and the domain."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from voucher_grpc.domain.offers.knowledge import ProfileType
from voucher_grpc.domain.tendencies.demand import coming_energy
from voucher_grpc.domain.tendencies.recording import Cancellation, SentSession
from voucher_grpc.domain.tendencies.tendency import Session, Tendency, habits
from voucher_grpc.edge.wire.checks import Checks, enum_number
from voucher_grpc.edge.wire.conditions import place_from_message, place_message
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.ocpi import PlaceKey, folded
from voucher_grpc.v1 import tendency_service_pb2 as pb

EARLIEST_START = datetime.fromisoformat("2010-01-01T00:00:00+00:00")
MAX_AHEAD = timedelta(days=1)
MAX_LENGTH = timedelta(days=31)
MAX_SESSION_ENERGY_WH = 10_000_000


PROFILE_TYPE = pb.ProfileType.DESCRIPTOR


def cancellation_from_message(message: pb.ChargingSession) -> Cancellation:
    """A session that does not count. Raises BadInput with all that is wrong."""
    checks = Checks()
    cancellation = Cancellation(
        checks.identifier("user_id", message.user_id, required=True),
        folded(checks.identifier("session_id", message.session_id, required=True)),
    )
    checks.done()
    return cancellation


def session_from_message(message: pb.ChargingSession, now: datetime) -> SentSession:
    """A session as sent, its zone not yet settled. Raises BadInput with all that is wrong."""
    checks = Checks()
    if not message.HasField("location"):
        checks.wrong("location", "is missing")
        place = PlaceKey("", "", "")
    else:
        place = place_from_message(checks, "location", message.location)
    session = Session(
        user_id=checks.identifier("user_id", message.user_id, required=True),
        session_id=checks.identifier("session_id", message.session_id, required=True),
        place=place,
        time_zone=checks.time_zone("time_zone", message.time_zone),
        start_time=_start(checks, message, now),
        end_time=checks.optional_instant(message, "end_time", ""),
        energy_wh=checks.number("energy_wh", message.energy_wh, 0, MAX_SESSION_ENERGY_WH),
    )
    if session.end_time is not None and not checks.violations:
        _check_end(checks, session.start_time, session.end_time, now)
    checks.done()
    return SentSession(session, message.correction)


def _start(checks: Checks, message: pb.ChargingSession, now: datetime) -> datetime:
    if not message.HasField("start_time"):
        checks.wrong("start_time", "is missing")
        return EARLIEST_START
    start = checks.instant("start_time", message.start_time)
    if start < EARLIEST_START:
        checks.wrong("start_time", "must not be before 2010-01-01T00:00:00Z")
    elif start > now + MAX_AHEAD:
        checks.wrong("start_time", "must not be more than a day ahead")
    return start


def _check_end(checks: Checks, start: datetime, end: datetime, now: datetime) -> None:
    if end < start:
        checks.wrong("end_time", "must not be before start_time")
    elif end - start > MAX_LENGTH:
        checks.wrong("end_time", f"must be at most {MAX_LENGTH.days} days after start_time")
    elif end > now + MAX_AHEAD:
        checks.wrong("end_time", "must not be more than a day ahead")


def profile_type_from_message(checks: Checks, field: str, value: int) -> str:
    """A declared wish; "" for none."""
    chosen = checks.choice(field, value, PROFILE_TYPE, ProfileType)
    return chosen.value if chosen else ""


def preferences_message(profile_type: str) -> pb.Preferences:
    """Declared wishes as a message."""
    chosen = ProfileType(profile_type) if profile_type else None
    return pb.Preferences(profile_type=enum_number(PROFILE_TYPE, chosen))  # type: ignore[arg-type]


def tendency_message(
    user_id: str,
    tendency: Tendency,
    places: Sequence[tuple[PlaceKey, float]],
    profile_type: str,
    now: datetime,
) -> pb.Tendency:
    """What is known of a user, in readable form, at `now`."""
    message = pb.Tendency(
        user_id=user_id,
        sessions=tendency.sessions,
        places=[pb.PlaceShare(location=place_message(k), share=share) for k, share in places],
        operators=_operators(places),
    )
    if profile_type:
        message.preferences.CopyFrom(preferences_message(profile_type))
    if tendency.first_session_time is not None:
        message.first_session_time.CopyFrom(timestamp(tendency.first_session_time))
    if tendency.last_session_time is not None:
        message.last_session_time.CopyFrom(timestamp(tendency.last_session_time))
    known = habits(tendency, now)
    if known is not None:
        message.energy_wh_per_30_days = round(known.energy_wh_per_30_days)
        message.sessions_per_30_days = known.sessions_per_30_days
        message.energy_wh_per_session = round(known.energy_wh_per_session)
        message.night_share = known.night_share
        message.weekend_share = known.weekend_share
        message.dwell_s = round(known.dwell_s)
        message.hour_of_week_shares.extend(known.hours.tolist())
        plugged_in = known.plugged_in_hours
        if plugged_in is not None:
            message.plugged_in_shares.extend(plugged_in.tolist())
        message.regularity = known.regularity
        message.mean_power_w = round(known.mean_power_w)
        coming = [round(energy) for energy in coming_energy(tendency, now)]
        message.forecast.energy_wh = coming[0]
        message.forecast.energy_low_wh = coming[1]
        message.forecast.energy_high_wh = coming[2]
    return message


def _operators(places: Sequence[tuple[PlaceKey, float]]) -> list[pb.OperatorShare]:
    """The shares of places added up by operator, the greatest first."""
    shares: dict[tuple[str, str], float] = {}
    for place, share in places:
        key = (place.country_code, place.party_id)
        shares[key] = shares.get(key, 0.0) + share
    return [
        pb.OperatorShare(country_code=country, party_id=party, share=share)
        for (country, party), share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    ]
