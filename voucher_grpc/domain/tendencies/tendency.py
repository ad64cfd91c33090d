"""What a user is inclined to do, stored as sums that a session is added to.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from voucher_grpc.domain.catalogue.conditions import HOURS_PER_WEEK, hour_of_week
from voucher_grpc.domain.tendencies.recent import with_session
from voucher_grpc.ocpi import PlaceKey

Vector: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

LANDMARK = datetime(2020, 1, 1, tzinfo=UTC)
SECONDS_PER_DAY = 86_400.0
PERIOD_DAYS = 30.0

# Rates have several half-lives, the shape of the habits one.
RATE_HALF_LIVES_DAYS = (14.0, 28.0, 56.0, 112.0, 365.0)
RECENT_RATE = 1
SHAPE_HALF_LIFE_DAYS = 90.0
# A session of no more than this is a failed start: it is stored, but says nothing of habits.
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
    """The sums of one user, the latest sessions (see `recent`), and the forecast made of the sums
    (see `forecast`)."""

    sessions: int
    first_session_time: datetime | None
    last_session_time: datetime | None
    state: Vector
    forecast: bytes = b""
    recent: bytes = b""


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
    tendency.recent = with_session(
        tendency.recent,
        start,
        session.end_time,
        session.time_zone,
        session.energy_wh,
        session.place,
    )
    first, last = tendency.first_session_time, tendency.last_session_time
    tendency.first_session_time = start if first is None else min(first, start)
    tendency.last_session_time = start if last is None else max(last, start)


def rebuild(sessions: Iterable[Session]) -> Tendency:
    """The tendency of all of a user's sessions, from nothing."""
    tendency = empty_tendency()
    for session in sessions:
        add_session(tendency, session)
    return tendency


def night_and_weekend(hours: Vector) -> tuple[float, float]:
    """What of energies by hour of the week (168) is in sessions that start from 22:00 to 07:00,
    and what on Saturday or Sunday."""
    by_day = hours.reshape(7, 24)
    night = by_day[:, 22:].sum() + by_day[:, :7].sum()
    return float(night), float(by_day[5:].sum())


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
        return night_and_weekend(self.hours)[0]

    @property
    def weekend_share(self) -> float:
        """Share of the energy in sessions that start on Saturday or Sunday."""
        return night_and_weekend(self.hours)[1]

    @property
    def regularity(self) -> float:
        """0 if all hours of the week are alike, 1 if all is charged in one: 1 less the entropy
        of the shares over that of even ones (Shannon 1948)."""
        some = self.hours[self.hours > 0]
        return 1 + float(some @ np.log(some)) / math.log(HOURS_PER_WEEK)

    @property
    def plugged_in_hours(self) -> Vector | None:
        """Shares of the time plugged in by local hour of the week (168, adding up to 1); None if
        no session's end is known.

        Estimated, so that it needs no place in the row: each session starts in the
        middle of its hour and lasts the mean time.
        """
        dwell_h = min(self.dwell_s / 3600, HOURS_PER_WEEK)
        if dwell_h <= 0:
            return None
        begins = np.arange(HOURS_PER_WEEK + 1)
        inside = np.minimum(begins + 1, 0.5 + dwell_h) - np.maximum(begins, 0.5)
        shares = np.convolve(self.hours, np.maximum(0.0, inside) / dwell_h)
        week: Vector = shares[:HOURS_PER_WEEK].copy()
        week[: len(shares) - HOURS_PER_WEEK] += shares[HOURS_PER_WEEK:]
        return week

    @property
    def mean_power_w(self) -> float:
        """Mean energy of a session over its mean time plugged in; 0 if that is not known."""
        return self.energy_wh_per_session / self.dwell_s * 3600 if self.dwell_s > 0 else 0.0


# The expected rate is the mean of those at half-lives of 28 and 56 days. Days are added
# to the age of a user: with one session on the first day the rate would else be without bound.
RATE_MIX = np.array([0.0, 0.5, 0.5, 0.0, 0.0])
AGE_ADDED_DAYS = 4.0
LEAST_MEAN_ENERGY_WH = 1.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What happens in 30 days; the last axis is the half-life. Energies in Wh."""

    sessions: Vector
    energy_wh: Vector


def _rates(state: Vector, known_days: Vector, at_days: Vector) -> Rates:
    """Rates of states (users by Layout.SIZE, or one) at days after the landmark.

    A rate is the decayed sum over the decayed time that the user has been
    known: h / ln 2 * (1 - 2 ** (-age / h)) days for a half-life of h.
    """
    age_days = np.maximum(0.0, known_days)[..., None] + AGE_ADDED_DAYS
    exposure = _RATE_HALF_LIVES / math.log(2) * (1 - np.exp2(-age_days / _RATE_HALF_LIVES))
    per_period = PERIOD_DAYS / (exposure * np.exp2(at_days[..., None] / _RATE_HALF_LIVES))
    return Rates(state[..., Layout.COUNT] * per_period, state[..., Layout.ENERGY] * per_period)


def rates(tendency: Tendency, at: datetime) -> Rates:
    """One user's rates at an instant, which is not before the last session."""
    at_days = _age_days(at)
    first_days = _age_days(tendency.first_session_time or at)
    return _rates(tendency.state, np.array(at_days - first_days), np.array(at_days))


# Whoever asks for a pass is about to charge, so a longer silence than this is not
# held against the rate: it is taken as it was then.
MAX_SILENCE = timedelta(days=30)
_MAX_SILENCE_DAYS = MAX_SILENCE / timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ManyHabits:
    """The habits of users, one row each; as `Habits` has them."""

    energy_wh_per_30_days: Vector
    sessions_per_30_days: Vector
    energy_wh_per_session: Vector
    energy_cv_per_session: Vector
    dwell_s: Vector
    hours: Vector
    silence_days: Vector
    known_days: Vector  # since the first session


def many_habits(tendencies: Sequence[Tendency], now: datetime) -> tuple[list[int], ManyHabits]:
    """The habits at `now`, and whose they are: the numbers of the tendencies that have some.

    None are known without a session with energy, or with hardly any energy. A user
    who has been silent for longer than MAX_SILENCE is judged as of the end of that
    time; `silence_days` says how long it has been.
    """
    states = np.array([t.state for t in tendencies]).reshape(-1, Layout.SIZE)
    # Sessions without energy may outweigh an old one that had some: a price per kWh
    # of next to nothing would be without bound.
    some = states[:, Layout.SHAPE_ENERGY] >= LEAST_MEAN_ENERGY_WH * states[:, Layout.SHAPE_COUNT]
    some &= states[:, Layout.SHAPE_COUNT] > 0
    numbers = np.flatnonzero(some)
    if len(numbers) < len(states):
        states = states[numbers]
    known = [tendencies[number] for number in numbers.tolist()]
    first_days = _days([t.first_session_time for t in known])
    last_days = _days([t.last_session_time for t in known])
    now_days = _age_days(now)
    at_days = np.minimum(now_days, last_days + _MAX_SILENCE_DAYS)
    rate = _rates(states, at_days - first_days, at_days)
    count, energy = states[:, Layout.SHAPE_COUNT], states[:, Layout.SHAPE_ENERGY]
    mean = energy / count
    variance = np.maximum(0.0, states[:, Layout.SHAPE_ENERGY_SQUARED] / count - mean * mean)
    dwell_count = states[:, Layout.DWELL_COUNT]
    dwell_s = np.zeros(len(states))
    np.divide(states[:, Layout.DWELL], dwell_count, out=dwell_s, where=dwell_count > 0)
    return numbers.tolist(), ManyHabits(
        energy_wh_per_30_days=rate.energy_wh @ RATE_MIX,
        sessions_per_30_days=rate.sessions @ RATE_MIX,
        energy_wh_per_session=mean,
        energy_cv_per_session=np.sqrt(variance) / mean,
        dwell_s=dwell_s,
        hours=states[:, Layout.HOURS] / energy[:, None],
        silence_days=np.maximum(0.0, now_days - last_days),
        known_days=np.maximum(0.0, now_days - first_days),
    )


_LANDMARK_S = LANDMARK.timestamp()


def _days(instants: Sequence[datetime | None]) -> Vector:
    """Days after the landmark; none of the instants is None where there is a session."""
    seconds = np.array([0.0 if at is None else at.timestamp() for at in instants])
    days: Vector = (seconds - _LANDMARK_S) / SECONDS_PER_DAY
    return days


def habits(tendency: Tendency, now: datetime) -> Habits | None:
    """One user's habits; see `many_habits`."""
    numbers, many = many_habits([tendency], now)
    if not numbers:
        return None
    return Habits(
        sessions=tendency.sessions,
        energy_wh_per_30_days=many.energy_wh_per_30_days.item(0),
        sessions_per_30_days=many.sessions_per_30_days.item(0),
        energy_wh_per_session=many.energy_wh_per_session.item(0),
        energy_cv_per_session=many.energy_cv_per_session.item(0),
        dwell_s=many.dwell_s.item(0),
        hours=many.hours[0],
        silence_days=many.silence_days.item(0),
    )
