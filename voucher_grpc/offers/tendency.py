"""What a user is inclined to do, kept as sums that a session is added to.

Forward decay (Cormode et al., "Forward Decay: A Practical Time Decay Model for
Streaming Systems", ICDE 2009): a session at time t has the fixed weight
2 ** ((t - LANDMARK) / half_life), so the sums do not depend on the order in
which sessions arrive and never need to be decayed; the weight at a later
instant is the same divided by 2 ** ((now - LANDMARK) / half_life). Half-lives
are 14 days or more, which keeps float64 far from its ends until 2058.

The state is one vector of float64; its layout is `Layout`. State vectors of
disjoint sets of sessions add up to that of their union.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from voucher_grpc.catalogue.conditions import HOURS_PER_WEEK, PlaceKey, hour_of_week

Vector: TypeAlias = npt.NDArray[np.float64]

LANDMARK = datetime(2020, 1, 1, tzinfo=UTC)
SECONDS_PER_DAY = 86_400.0
PERIOD_DAYS = 30.0

# Rates are kept at several half-lives, the shape of the habits at one.
RATE_HALF_LIVES_DAYS = (14.0, 45.0, 180.0)
SHAPE_HALF_LIFE_DAYS = 90.0


class Layout:
    """Where things stand in the state vector. Energies in Wh, times in s."""

    COUNT = slice(0, 3)
    ENERGY = slice(3, 6)
    SHAPE_COUNT = 6
    SHAPE_ENERGY = 7
    SHAPE_ENERGY_SQUARED = 8
    DWELL = 9
    DWELL_COUNT = 10
    HOURS = slice(11, 11 + HOURS_PER_WEEK)
    SIZE = 11 + HOURS_PER_WEEK


@dataclass(frozen=True, slots=True)
class Session:
    """A charge that has happened; `time_zone` is the place's, `end_time` may be unknown."""

    user_id: str
    session_id: str
    place: PlaceKey
    time_zone: str
    start_time: datetime
    end_time: datetime | None
    energy_wh: int


@dataclass(slots=True)
class Tendency:
    """The sums of one user."""

    sessions: int
    first_session_time: datetime | None
    last_session_time: datetime | None
    state: Vector


def empty_tendency() -> Tendency:
    """What is known of a user without sessions."""
    return Tendency(0, None, None, np.zeros(Layout.SIZE))


def _age_days(at: datetime) -> float:
    return (at - LANDMARK).total_seconds() / SECONDS_PER_DAY


def shape_weight(at: datetime) -> float:
    """The weight of a session at `at` in the shape of the habits."""
    return math.exp2(_age_days(at) / SHAPE_HALF_LIFE_DAYS)


_RATE_HALF_LIVES = np.array(RATE_HALF_LIVES_DAYS)


def _rate_weights(at: datetime) -> Vector:
    weights: Vector = np.exp2(_age_days(at) / _RATE_HALF_LIVES)
    return weights


def add_session(tendency: Tendency, session: Session) -> None:
    """Add one session. The caller sees to it that each is added once."""
    state, start = tendency.state, session.start_time
    rate, shape, energy = _rate_weights(start), shape_weight(start), float(session.energy_wh)
    state[Layout.COUNT] += rate
    state[Layout.ENERGY] += rate * energy
    state[Layout.SHAPE_COUNT] += shape
    state[Layout.SHAPE_ENERGY] += shape * energy
    state[Layout.SHAPE_ENERGY_SQUARED] += shape * energy * energy
    if session.end_time is not None:
        state[Layout.DWELL] += shape * (session.end_time - start).total_seconds()
        state[Layout.DWELL_COUNT] += shape
    local_hour = hour_of_week(start.astimezone(ZoneInfo(session.time_zone)))
    state[Layout.HOURS.start + local_hour] += shape * energy
    tendency.sessions += 1
    first, last = tendency.first_session_time, tendency.last_session_time
    tendency.first_session_time = start if first is None else min(first, start)
    tendency.last_session_time = start if last is None else max(last, start)


def rebuild(sessions: Iterable[Session]) -> Tendency:
    """The tendency of all of a user's sessions, from nothing."""
    tendency = empty_tendency()
    for session in sessions:
        add_session(tendency, session)
    return tendency


@dataclass(frozen=True, slots=True)
class Habits:
    """A tendency as numbers one can read, at an instant.

    Energies in Wh, rates for 30 days, `hours` the shares of energy by local
    hour of the week (168, adding up to 1).
    """

    sessions: int
    energy_wh_per_30_days: float
    sessions_per_30_days: float
    energy_wh_per_session: float
    energy_cv_per_session: float
    dwell_s: float
    hours: Vector
    silence_days: float

    @property
    def night_share(self) -> float:
        """Share of the energy in sessions that start from 22:00 to 07:00."""
        by_hour = self.hours.reshape(7, 24).sum(axis=0)
        return float(by_hour[22:].sum() + by_hour[:7].sum())

    @property
    def weekend_share(self) -> float:
        """Share of the energy in sessions that start on Saturday or Sunday."""
        return float(self.hours.reshape(7, 24)[5:].sum())


# Weights of the three rates in the expected one, and days added to the age of a
# user: with one session on the first day the rate would else be without bound.
RATE_MIX = np.array([0.35, 0.45, 0.2])
AGE_ADDED_DAYS = 4.0
LEAST_MEAN_ENERGY_WH = 1.0


# Whoever asks for a pass is about to charge, so a longer silence than this is not
# held against the rate: it is taken as it was then.
MAX_SILENCE = timedelta(days=30)


def habits(tendency: Tendency, now: datetime) -> Habits | None:
    """The habits at `now`; None if no session with energy is known, or hardly any.

    A user who has been silent for longer than MAX_SILENCE is judged as of the
    end of that time; `silence_days` says how long it has been.

    A rate is the decayed sum over the decayed time that the user has been
    known: h / ln 2 * (1 - 2 ** (-age / h)) days for a half-life of h.
    """
    first, last = tendency.first_session_time, tendency.last_session_time
    state = tendency.state
    if first is None or last is None:
        return None
    # Sessions without energy may outweigh an old one that had some: a price per kWh
    # of next to nothing would be without bound.
    if state[Layout.SHAPE_ENERGY] < LEAST_MEAN_ENERGY_WH * state[Layout.SHAPE_COUNT]:
        return None
    silence_days = max(0.0, (now - last).total_seconds() / SECONDS_PER_DAY)
    now = min(now, last + MAX_SILENCE)
    age_days = max(0.0, (now - first).total_seconds() / SECONDS_PER_DAY) + AGE_ADDED_DAYS
    exposure = _RATE_HALF_LIVES / math.log(2) * (1 - np.exp2(-age_days / _RATE_HALF_LIVES))
    per_period = PERIOD_DAYS * RATE_MIX / (exposure * _rate_weights(now))
    count, energy = state[Layout.SHAPE_COUNT], state[Layout.SHAPE_ENERGY]
    mean = energy / count
    variance = max(0.0, state[Layout.SHAPE_ENERGY_SQUARED] / count - mean * mean)
    dwell_count = state[Layout.DWELL_COUNT]
    return Habits(
        sessions=tendency.sessions,
        energy_wh_per_30_days=float(per_period @ state[Layout.ENERGY]),
        sessions_per_30_days=float(per_period @ state[Layout.COUNT]),
        energy_wh_per_session=float(mean),
        energy_cv_per_session=float(math.sqrt(variance) / mean),
        dwell_s=float(state[Layout.DWELL] / dwell_count) if dwell_count > 0 else 0.0,
        hours=state[Layout.HOURS] / energy,
        silence_days=silence_days,
    )
