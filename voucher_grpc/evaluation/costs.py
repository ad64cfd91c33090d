"""What a period would have cost with each product, session by session.

A session is covered when the conditions hold at its start, with a session's
whole energy for bounds on energy. Prices are per kWh of the one pay-as-you-go
price of an evaluation, tax included. A pass's price is that of its whole life,
scaled to 30 days.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from voucher_grpc.domain.catalogue.conditions import ChargeState, UsageConditions, conditions_hold
from voucher_grpc.domain.catalogue.product import (
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    SessionBundle,
    Terms,
    length_days,
)
from voucher_grpc.domain.tendencies.tendency import PERIOD_DAYS, Session, Vector


@lru_cache(maxsize=500_000)
def _covered(conditions: UsageConditions, start: datetime, time_zone: str) -> bool:
    return conditions_hold(conditions, start, ZoneInfo(time_zone), ChargeState())


def covered_energy_wh(terms: Terms, sessions: Sequence[Session]) -> list[int]:
    """The energies of the sessions that a pass covers."""
    return [s.energy_wh for s in sessions if _covered(terms.conditions, s.start_time, s.time_zone)]


def _gain_micros(benefit: Benefit, covered: Sequence[int], price_micros: float) -> float:
    """What a benefit takes off; energies in Wh, the price in micro-units per kWh."""
    energy_kwh = sum(covered) / 1000
    match benefit:
        case EnergyBundle(bundle_wh) | FlatPeriod(bundle_wh):
            return min(energy_kwh, bundle_wh / 1000) * price_micros
        case SessionBundle(sessions, cap):
            given = [min(e, cap) if cap else e for e in covered[:sessions]]
            return sum(given) / 1000 * price_micros
        case EnergyPrice(member_micros):
            return energy_kwh * (price_micros - member_micros)
        case PercentageOff(basis_points):
            return energy_kwh * price_micros * basis_points / 10_000


def savings_micros(
    products: Sequence[Terms], sessions: Sequence[Session], price_micros: float
) -> Vector:
    """What each product would have saved over 30 days, its price deducted, micro-units."""
    savings = []
    for terms in products:
        share = PERIOD_DAYS / max(PERIOD_DAYS, length_days(terms.validity))
        gain = _gain_micros(terms.benefit, covered_energy_wh(terms, sessions), price_micros)
        savings.append(gain - terms.price.micros * share)
    return np.array(savings)


def pay_as_you_go_micros(sessions: Sequence[Session], price_micros: float) -> float:
    """What the sessions cost without a pass."""
    return sum(s.energy_wh for s in sessions) / 1000 * price_micros
