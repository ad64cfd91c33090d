"""The coming demand of a user: weighted scenarios of a period, and where it happens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voucher_grpc.catalogue.conditions import PlaceKey
from voucher_grpc.offers.forecast import scenario_hours
from voucher_grpc.offers.tendency import Habits, Vector
from voucher_grpc.places.location import Location
from voucher_grpc.places.tariff import HourlyPrices

# Five equally likely scenarios: the 10, 30, 50, 70 and 90 % quantiles of a
# standard normal, put through a log-normal below.
_QUANTILES = np.array([-1.2816, -0.5244, 0.0, 0.5244, 1.2816])
SCENARIOS = len(_QUANTILES)
# What varies from month to month beyond the chance of single sessions.
MONTHLY_CV = 0.3


@dataclass(frozen=True, slots=True)
class DemandPlace:
    """A place with its share of the energy; `prices` None where it is unpriced."""

    key: PlaceKey
    share: float
    location: Location | None
    prices: HourlyPrices | None


@dataclass(frozen=True, slots=True)
class Demand:
    """What a user is expected to charge in 30 days.

    `energy_wh` and `sessions` hold one number a scenario, `weights` add up to
    1, `hours` are each scenario's shares by local hour of the week (scenarios
    by 168, rows adding up to 1), `session_energy_wh` are equally likely
    energies of one session.
    """

    energy_wh: Vector
    sessions: Vector
    weights: Vector
    hours: Vector
    session_energy_wh: Vector
    dwell_s: float
    silence_days: float
    places: Sequence[DemandPlace]

    @property
    def mean_energy_wh(self) -> float:
        return float(self.energy_wh @ self.weights)

    @property
    def mean_sessions(self) -> float:
        return float(self.sessions @ self.weights)

    @property
    def mean_hours(self) -> Vector:
        """Shares of the expected energy by local hour of the week (168, adding up to 1)."""
        energy = self.energy_wh * self.weights
        total = float(energy.sum())
        mean: Vector = (energy / total if total > 0 else self.weights) @ self.hours
        return mean


def _lognormal(mean: float, cv: float) -> Vector:
    """Equally likely values of a log-normal, scaled to have the mean exactly."""
    sigma = math.sqrt(math.log1p(cv * cv))
    values = np.exp(sigma * _QUANTILES)
    scaled: Vector = values * (mean / values.mean())
    return scaled


def expected_demand(
    habits: Habits, places: Sequence[DemandPlace], points: Vector | None = None
) -> Demand:
    """Scenarios of the coming 30 days.

    `points` are the forecast's (see `forecast.scenarios`). Without a forecast the
    scenarios lie around the expected rates; the variance of a period's energy is
    then that of a compound Poisson sum, cv**2 = (1 + cv_session**2) / sessions,
    plus what habits change by.
    """
    sessions = max(habits.sessions_per_30_days, 1e-3)
    cv_session = habits.energy_cv_per_session
    if points is None:
        cv = math.sqrt(min(4.0, (1 + cv_session * cv_session) / sessions + MONTHLY_CV**2))
        energy = _lognormal(habits.energy_wh_per_30_days, cv)
        hours = np.tile(habits.hours, (SCENARIOS, 1))
    else:
        energy = points[:, 0] * 1000
        hours = scenario_hours(habits.hours, points)
    return Demand(
        energy_wh=energy,
        sessions=energy * (sessions / max(habits.energy_wh_per_30_days, 1e-9)),
        weights=np.full(len(energy), 1 / len(energy)),
        hours=hours,
        session_energy_wh=_lognormal(habits.energy_wh_per_session, cv_session),
        dwell_s=habits.dwell_s,
        silence_days=habits.silence_days,
        places=places,
    )


# A charge goes at no less than this on average where its power is not known; it
# splits the time plugged in into charging and parking.
ASSUMED_POWER_W = 7_000
