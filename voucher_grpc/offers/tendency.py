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
RATE_HALF_LIVES_DAYS = (14.0, 28.0, 56.0, 112.0, 365.0)
RECENT_RATE = 1
SHAPE_HALF_LIFE_DAYS = 90.0
# A session of no more than this is a failed start: it is kept, but says nothing of habits.
FAILED_START_WH = 100


class Layout:
    """Where things stand in the state vector. Energies in Wh, times in s."""

    COUNT = slice(0, 5)
    ENERGY = slice(5, 10)
    NIGHT = 10  # energy from 22:00 to 07:00 and on weekends, at the half-life RECENT_RATE
    WEEKEND = 11
    SHAPE_COUNT = 12
    SHAPE_ENERGY = 13
    SHAPE_ENERGY_SQUARED = 14
    DWELL = 15
    DWELL_COUNT = 16
    HOURS = slice(17, 17 + HOURS_PER_WEEK)
    SIZE = 17 + HOURS_PER_WEEK


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
    """The sums of one user, and the forecast made from them (`offers.forecast`)."""

    sessions: int
    first_session_time: datetime | None
    last_session_time: datetime | None
    state: Vector
    forecast: bytes = b""


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
    tendency.sessions += 1
    if session.energy_wh <= FAILED_START_WH:
        return
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
    local = start.astimezone(ZoneInfo(session.time_zone))
    state[Layout.HOURS.start + hour_of_week(local)] += shape * energy
    if local.hour >= 22 or local.hour < 7:
        state[Layout.NIGHT] += rate[RECENT_RATE] * energy
    if local.weekday() >= 5:
        state[Layout.WEEKEND] += rate[RECENT_RATE] * energy
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


# The expected rate is the mean of those at half-lives of 28 and 56 days. Days are added
# to the age of a user: with one session on the first day the rate would else be without bound.
RATE_MIX = np.array([0.0, 0.5, 0.5, 0.0, 0.0])
AGE_ADDED_DAYS = 4.0
LEAST_MEAN_ENERGY_WH = 1.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What happens in 30 days, one number a half-life; energies in Wh."""

    sessions: Vector
    energy_wh: Vector


def rates(tendency: Tendency, at: datetime) -> Rates:
    """The rates at an instant, which is not before the last session.

    A rate is the decayed sum over the decayed time that the user has been
    known: h / ln 2 * (1 - 2 ** (-age / h)) days for a half-life of h.
    """
    first = tendency.first_session_time or at
    age_days = max(0.0, (at - first).total_seconds() / SECONDS_PER_DAY) + AGE_ADDED_DAYS
    exposure = _RATE_HALF_LIVES / math.log(2) * (1 - np.exp2(-age_days / _RATE_HALF_LIVES))
    per_period = PERIOD_DAYS / (exposure * _rate_weights(at))
    state = tendency.state
    return Rates(state[Layout.COUNT] * per_period, state[Layout.ENERGY] * per_period)


# Whoever asks for a pass is about to charge, so a longer silence than this is not
# held against the rate: it is taken as it was then.
MAX_SILENCE = timedelta(days=30)


def habits(tendency: Tendency, now: datetime) -> Habits | None:
    """The habits at `now`; None if no session with energy is known, or hardly any.

    A user who has been silent for longer than MAX_SILENCE is judged as of the
    end of that time; `silence_days` says how long it has been.
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
    rate = rates(tendency, min(now, last + MAX_SILENCE))
    count, energy = state[Layout.SHAPE_COUNT], state[Layout.SHAPE_ENERGY]
    mean = energy / count
    variance = max(0.0, state[Layout.SHAPE_ENERGY_SQUARED] / count - mean * mean)
    dwell_count = state[Layout.DWELL_COUNT]
    return Habits(
        sessions=tendency.sessions,
        energy_wh_per_30_days=float(RATE_MIX @ rate.energy_wh),
        sessions_per_30_days=float(RATE_MIX @ rate.sessions),
        energy_wh_per_session=float(mean),
        energy_cv_per_session=float(math.sqrt(variance) / mean),
        dwell_s=float(state[Layout.DWELL] / dwell_count) if dwell_count > 0 else 0.0,
        hours=state[Layout.HOURS] / energy,
        silence_days=silence_days,
    )
