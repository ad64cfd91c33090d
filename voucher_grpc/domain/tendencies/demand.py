"""The coming demand of users: equally likely scenarios of a period, and where it happens."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from voucher_grpc.domain.places.location import Location
from voucher_grpc.domain.tendencies.forecast import (
    BLOCKS,
    SCENARIOS,
    block_factors,
    scenarios,
    spread,
)
from voucher_grpc.domain.tendencies.tendency import ManyHabits, Tendency, Vector, many_habits
from voucher_grpc.domain.tendencies.user_prices import UserPrices
from voucher_grpc.ocpi import PlaceKey

# Equally likely values of a standard normal: the middles of as many slices.
_QUANTILES = np.array([NormalDist().inv_cdf((n + 0.5) / SCENARIOS) for n in range(SCENARIOS)])
_SESSION_QUANTILES = np.array([NormalDist().inv_cdf((n + 0.5) / 5) for n in range(5)])
# What varies from month to month beyond the chance of single sessions.
MONTHLY_CV = 0.3
_MOST_VARIANCE = 4.0
_LEAST_SESSIONS = 1e-3


class DemandPlace(NamedTuple):
    """A place with its share of the energy; `prices` None where it is unpriced."""

    key: PlaceKey
    share: float
    location: Location | None
    prices: UserPrices | None


@dataclass(frozen=True, slots=True)
class Demands:
    """What users are expected to charge in 30 days, one row a user.

    `energy_kwh` and `sessions` are users by scenarios, each scenario as likely as
    the others. A scenario's share of an hour of the week is that of `profile`
    (users by 168) times the factor of the hour's block in `block_factors` (users
    by scenarios by blocks, see `forecast`). `session_wh` are equally likely
    energies of one session. `hours` are the habits, from which the scenarios
    depart; `places` are the user's, their shares adding up to 1.
    """

    energy_kwh: Vector
    sessions: Vector
    profile: Vector
    block_factors: Vector
    session_wh: Vector
    dwell_h: Vector
    silence_days: Vector
    hours: Vector
    places: Sequence[Sequence[DemandPlace]]

    def __len__(self) -> int:
        return len(self.energy_kwh)

    def part(self, start: int, end: int) -> "Demands":
        """Some of the users."""
        rows = slice(start, end)
        return Demands(
            self.energy_kwh[rows],
            self.sessions[rows],
            self.profile[rows],
            self.block_factors[rows],
            self.session_wh[rows],
            self.dwell_h[rows],
            self.silence_days[rows],
            self.hours[rows],
            self.places[rows],
        )


def _lognormal(mean: Vector, cv: Vector, quantiles: Vector) -> Vector:
    """Equally likely values of log-normals (users by quantiles), scaled to have the means."""
    values = np.exp(np.sqrt(np.log1p(cv * cv))[:, None] * quantiles)
    scaled: Vector = values * (mean / values.mean(axis=1))[:, None]
    return scaled


def expected_demands(
    habits: ManyHabits, places: Sequence[Sequence[DemandPlace]], forecasts: Sequence[bytes]
) -> Demands:
    """Scenarios of the coming 30 days, from the forecasts that were made when sessions arrived.

    Without a forecast (b"") the scenarios lie around the expected rates; the variance
    of a period's energy is then that of a compound Poisson sum,
    cv**2 = (1 + cv_session**2) / sessions, plus what habits change by.
    """
    sessions = np.maximum(habits.sessions_per_30_days, _LEAST_SESSIONS)
    points, has_forecast = scenarios(forecasts, habits.silence_days)
    energy_kwh, profile = points[:, :, 0], spread(habits.hours)
    factors = block_factors(profile, points[:, :, 1], points[:, :, 2])
    if not has_forecast.all():
        without = ~has_forecast
        squared = 1 + habits.energy_cv_per_session[without] ** 2
        cv = np.sqrt(np.minimum(_MOST_VARIANCE, squared / sessions[without] + MONTHLY_CV**2))
        mean_kwh = habits.energy_wh_per_30_days[without] / 1000
        energy_kwh[without] = _lognormal(mean_kwh, cv, _QUANTILES)
        profile[without] = habits.hours[without]
        factors[without] = np.ones(BLOCKS)
    per_kwh = sessions / np.maximum(habits.energy_wh_per_30_days / 1000, 1e-12)
    return Demands(
        energy_kwh=energy_kwh,
        sessions=energy_kwh * per_kwh[:, None],
        profile=profile,
        block_factors=factors,
        session_wh=_lognormal(
            habits.energy_wh_per_session, habits.energy_cv_per_session, _SESSION_QUANTILES
        ),
        dwell_h=habits.dwell_s / 3600,
        silence_days=habits.silence_days,
        hours=habits.hours,
        places=places,
    )


def coming_energy(tendency: Tendency, now: datetime) -> tuple[float, float, float]:
    """(expected, low, high) energy of the 30 days to come, Wh; a tenth of the scenarios lies
    below the second, a tenth above the third. For a user with habits."""
    _, habits = many_habits([tendency], now)
    scenarios_kwh = expected_demands(habits, [()], [tendency.forecast]).energy_kwh[0]
    low, high = np.quantile(scenarios_kwh, (0.1, 0.9))
    return float(scenarios_kwh.mean()) * 1000, float(low) * 1000, float(high) * 1000
