"""User-months: what is known at each decision, and what happened in the 30 days after it.

Protocol (docs/evaluation.md): for each user consecutive periods of 30 days, the
first decision 30 days after the first session, the last period ending at or
before the last session; sessions over 0.1 kWh; at each decision only the past is
known.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from voucher_grpc.domain.tendencies.tendency import (
    FAILED_START_WH,
    Session,
    Tendency,
    add_session,
    empty_tendency,
)

PERIOD = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class UserMonth:
    """A decision at `start`: the tendency of what was before, `past` and `coming` sessions."""

    user_id: str
    start: datetime
    tendency: Tendency
    past: Sequence[Session]
    coming: Sequence[Session]


def by_user(sessions: Iterable[Session]) -> dict[str, list[Session]]:
    """Sessions that count, in order of their start."""
    users: dict[str, list[Session]] = {}
    for session in sessions:
        if session.energy_wh > FAILED_START_WH:
            users.setdefault(session.user_id, []).append(session)
    for own in users.values():
        own.sort(key=lambda session: (session.start_time, session.session_id))
    return users


def _copy(tendency: Tendency) -> Tendency:
    return Tendency(
        tendency.sessions,
        tendency.first_session_time,
        tendency.last_session_time,
        tendency.state.copy(),
    )


def user_months(sessions: Sequence[Session]) -> list[UserMonth]:
    """The months of one user, whose sessions are in order."""
    if not sessions:
        return []
    months: list[UserMonth] = []
    tendency, known = empty_tendency(), 0
    start = sessions[0].start_time + PERIOD
    while start + PERIOD <= sessions[-1].start_time:
        while sessions[known].start_time < start:
            add_session(tendency, sessions[known])
            known += 1
        end = known
        while end < len(sessions) and sessions[end].start_time < start + PERIOD:
            end += 1
        months.append(
            UserMonth(
                sessions[0].user_id,
                start,
                _copy(tendency),
                sessions[:known],
                sessions[known:end],
            )
        )
        start += PERIOD
    return months


def all_months(sessions: Iterable[Session]) -> list[UserMonth]:
    """The months of all users, by user."""
    users = by_user(sessions)
    return [month for user in sorted(users) for month in user_months(users[user])]
