"""The coming 30 days of a user as scenarios, predetermined when sessions arrive.

What is learned is demand, not the saving of a product, so any catalogue can be
judged by it. For a user-month the population's user-months that were alike
(`forest`) say how the next 30 days related to the habits before: the ratio of
the energies, and by how much the shares of night and weekend charging moved.
Applied to this user's habits they are a distribution of the coming period, kept
as SCENARIOS equally likely points, by energy.

A forecast ages: a user who has been silent for a while is another one. So it is
made for several silences at once, and a request takes the nearest. Nothing is
computed on the path of a request.

A forecast is stored as float16: silences by scenarios by (energy kWh, night
share, weekend share).
"""

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from importlib.resources import files

import numpy as np

from voucher_grpc.domain.tendencies.forest import Floats, Forest
from voucher_grpc.domain.tendencies.tendency import (
    LANDMARK,
    PERIOD_DAYS,
    RECENT_RATE,
    SECONDS_PER_DAY,
    Flags,
    Layout,
    Tendency,
    Vector,
    night_and_weekend,
    rates,
)

SCENARIOS = 12
SILENCES_DAYS = (0, 2, 5, 10, 18, 30)
_SILENCES = np.array(SILENCES_DAYS)
_SHAPE = (len(SILENCES_DAYS), SCENARIOS, 3)
FORECAST_BYTES = 2 * math.prod(_SHAPE)
_LARGEST_KWH = 60_000.0  # float16 ends at 65,504
_DAYS_PER_YEAR = 365.25
# Where the rates of 28 and 56 days stand: their mean is what a month is compared with.
_BASE = (1, 2)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is fitted on a population; data with a version.

    `outcomes` (population by 3, sorted by the first) are the log-ratio of the
    next month's energy to the base, and the shifts of the night and weekend
    shares. `seen_users` are digests of the users they were fitted on: of their ids, and of their
    first sessions, which stay when a file gives its users other names.
    """

    version: str
    forest: Forest
    outcomes: Floats
    seen_users: frozenset[bytes]


def features(tendency: Tendency, at: datetime) -> Vector:
    """What a user-month is compared by, from the sums at an instant. Energies in kWh."""
    rate = rates(tendency, at)
    state = tendency.state
    first, last = tendency.first_session_time, tendency.last_session_time
    age_days = (at - first).total_seconds() / SECONDS_PER_DAY if first else 0.0
    silence_days = (at - last).total_seconds() / SECONDS_PER_DAY if last else 0.0
    energy = np.log1p(rate.energy_wh / 1000)
    counts = np.log1p(rate.sessions)
    count, total = state[Layout.SHAPE_COUNT], state[Layout.SHAPE_ENERGY]
    mean = total / count / 1000 if count > 0 else 0.0
    square = state[Layout.SHAPE_ENERGY_SQUARED] / count / 1e6 if count > 0 else 0.0
    spread = math.sqrt(max(0.0, square - mean * mean)) / mean if mean > 0 else 0.0
    middle = (at - LANDMARK) / timedelta(days=1) + PERIOD_DAYS / 2
    season = 2 * math.pi * middle / _DAYS_PER_YEAR
    return np.array(
        [
            *(value for pair in zip(energy, counts, strict=True) for value in pair),
            *recent_shares(tendency),
            *shape_shares(tendency),
            mean,
            spread,
            age_days,
            tendency.sessions,
            silence_days,
            math.sin(season),
            math.cos(season),
            energy[0] - energy[2],
            energy[2] - energy[4],
        ]
    )


def recent_shares(tendency: Tendency) -> tuple[float, float]:
    """Night and weekend shares of the energy at the half-life of 28 days."""
    state = tendency.state
    total = float(state[Layout.ENERGY][RECENT_RATE])
    if total <= 0:
        return shape_shares(tendency)
    return float(state[Layout.NIGHT]) / total, float(state[Layout.WEEKEND]) / total


def shape_shares(tendency: Tendency) -> tuple[float, float]:
    """Night and weekend shares of the energy in the shape of the habits."""
    hours = tendency.state[Layout.HOURS]
    total = float(hours.sum())
    if total <= 0:
        return 0.0, 0.0
    night, weekend = night_and_weekend(hours)
    return night / total, weekend / total


def base_energy_kwh(tendency: Tendency, at: datetime) -> float:
    """The month's energy that outcomes are ratios of."""
    energy = rates(tendency, at).energy_wh
    return float(energy[_BASE[0]] + energy[_BASE[1]]) / 2000


def forecasts(parameters: Parameters, tendencies: Sequence[Tendency]) -> list[bytes]:
    """Forecasts of users as of their last sessions; b"" for a user without any."""
    known = [t for t in tendencies if t.last_session_time is not None]
    if not known:
        return [b""] * len(tendencies)
    instants = [
        (t, t.last_session_time + timedelta(days=silence))
        for t in known
        if t.last_session_time is not None
        for silence in SILENCES_DAYS
    ]
    weights = parameters.forest.weights(np.array([features(t, at) for t, at in instants]))
    bases = np.array([base_energy_kwh(t, at) for t, at in instants])
    shares = np.array([shape_shares(t) for t, _ in instants])
    points = _points(parameters.outcomes, weights, bases, shares)
    packed = iter(points.reshape(-1, *_SHAPE).astype("<f2"))
    return [next(packed).tobytes() if t.last_session_time is not None else b"" for t in tendencies]


def _points(outcomes: Floats, weights: Vector, bases: Vector, shares: Vector) -> Vector:
    """Rows by scenarios by (energy kWh, night share, weekend share).

    Outcomes are sorted by their ratio, so equal slices of the cumulative weight
    are the scenarios; each is the weighted mean of its slice.
    """
    slices = np.cumsum(weights, axis=1) - weights / 2
    number = np.minimum((slices * SCENARIOS).astype(np.int64), SCENARIOS - 1)
    cell = (np.arange(len(weights))[:, None] * SCENARIOS + number).ravel()
    energy = np.expm1(np.maximum(0.0, np.log1p(bases)[:, None] + outcomes[:, 0]))
    night = np.clip(shares[:, :1] + outcomes[:, 1], 0.0, 1.0)
    weekend = np.clip(shares[:, 1:] + outcomes[:, 2], 0.0, 1.0)
    size = len(weights) * SCENARIOS
    mass = np.maximum(np.bincount(cell, weights.ravel(), size), 1e-12)
    columns = [
        np.bincount(cell, (weights * np.minimum(values, _LARGEST_KWH)).ravel(), size) / mass
        for values in (energy, night, weekend)
    ]
    return np.stack(columns, axis=-1).reshape(len(weights), SCENARIOS, 3)


def scenarios(made: Sequence[bytes], silence_days: Vector) -> tuple[Vector, Flags]:
    """Scenarios of users (users by scenarios by (energy kWh, night share, weekend share)) for
    their silences, and who has a forecast; the others' are zero."""
    nothing = b"\0" * FORECAST_BYTES
    has = np.array([len(forecast) == FORECAST_BYTES for forecast in made], dtype=np.bool_)
    joined = b"".join(f if len(f) == FORECAST_BYTES else nothing for f in made)
    nearest = np.abs(silence_days[:, None] - _SILENCES).argmin(axis=1)
    every = np.frombuffer(joined, "<f2").reshape(-1, *_SHAPE)
    return every[np.arange(len(made)), nearest].astype(np.float64), has


# Blocks of the week: workday and weekend, by day and by night.
BLOCKS = 4
_NIGHT_HOURS = np.array([hour >= 22 or hour < 7 for hour in range(24)] * 7)
_WEEKEND_HOURS = np.arange(168) >= 120
BLOCK_OF_HOUR = 2 * _WEEKEND_HOURS + _NIGHT_HOURS
_IN_BLOCK = (BLOCK_OF_HOUR[:, None] == np.arange(BLOCKS)).astype(np.float64)
# So much of a user's profile is taken as spread evenly: an hour never used is not impossible.
_EVEN_SHARE = 0.02


def spread(hours: Vector) -> Vector:
    """Profiles of the week with a little everywhere (users by 168, rows adding up to 1)."""
    profile: Vector = hours * (1 - _EVEN_SHARE)
    profile += _EVEN_SHARE / hours.shape[-1]
    return profile


def block_shares(profile: Vector) -> Vector:
    """What of profiles (168 along the last axis) lies in each block of the week."""
    shares: Vector = profile @ _IN_BLOCK
    return shares


def block_factors(profile: Vector, night: Vector, weekend: Vector) -> Vector:
    """By what the blocks of a profile (users by 168) are multiplied so that their night and
    weekend shares are those of the scenarios (users by scenarios): users by scenarios by blocks.

    Iterative proportional fitting (Deming and Stephan 1940); what is multiplied
    adds up to 1 again.
    """
    users, scenarios = night.shape
    blocks = block_shares(profile).reshape(users, 1, 2, 2)
    wanted = [np.clip(share, 0.005, 0.995) for share in (weekend, night)]
    rows, columns = (np.stack((1 - share, share), axis=-1) for share in wanted)
    table = np.repeat(blocks, scenarios, axis=1)
    for _ in range(4):
        table *= (rows / table.sum(axis=3))[:, :, :, None]
        table *= (columns / table.sum(axis=2))[:, :, None, :]
    factors: Vector = table / blocks
    return factors.reshape(users, scenarios, BLOCKS)


_ARRAYS = (
    "roots",
    "feature",
    "threshold",
    "left",
    "right",
    "first",
    "count",
    "members",
)


def parameters_to_bytes(parameters: Parameters) -> bytes:
    """The parameters as a compressed NumPy archive."""
    forest = parameters.forest
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        version=np.array(parameters.version),
        outcomes=parameters.outcomes,
        seen_users=np.array(sorted(parameters.seen_users), dtype="S8"),
        sizes=np.array([forest.population, forest.depth]),
        **{name: getattr(forest, name) for name in _ARRAYS},
    )
    return buffer.getvalue()


def parameters_from_bytes(data: bytes) -> Parameters:
    """What `parameters_to_bytes` wrote. Raises ValueError for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            population, depth = (int(size) for size in archive["sizes"])
            forest = Forest(
                **{name: archive[name] for name in _ARRAYS}, population=population, depth=depth
            )
            return Parameters(
                version=str(archive["version"]),
                forest=forest,
                outcomes=archive["outcomes"],
                seen_users=frozenset(bytes(u).ljust(8, b"\0") for u in archive["seen_users"]),
            )
    except (KeyError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError("not a file of forecast parameters") from error


@lru_cache(maxsize=1)
def default_parameters() -> Parameters:
    """The parameters that are shipped."""
    data = (files("voucher_grpc.domain.tendencies") / "parameters" / "default.npz").read_bytes()
    return parameters_from_bytes(data)
