"""Whether the restrictions of a price, or of a pass, hold in a period of a charge."""

from fractions import Fraction
from zoneinfo import ZoneInfo

from voucher_grpc.domain.catalogue.conditions import Restrictions, UsageConditions, time_holds
from voucher_grpc.domain.pricing.charge import Bounds, Period


def conditions_hold_in(conditions: UsageConditions, period: Period, zone: ZoneInfo) -> bool:
    """Whether a pass covers a period by its time and its state: at the period's start, as a
    tariff's elements are judged. What a period does not state meets no bound on it."""
    if not conditions.any_of:
        return True
    local = period.start.astimezone(zone)
    return any(state_holds(r, period) and time_holds(r, local) for r in conditions.any_of)


def asks_for_state(asked: Restrictions) -> bool:
    """Whether they ask for energy, duration, power or current."""
    return any(
        bound is not None
        for bound in (
            asked.min_energy_wh,
            asked.max_energy_wh,
            asked.min_duration_s,
            asked.max_duration_s,
            asked.min_power_w,
            asked.max_power_w,
            asked.min_current_ma,
            asked.max_current_ma,
        )
    )


def asks_for_time(asked: Restrictions) -> bool:
    """Whether they ask for the wall clock."""
    return bool(asked.day_of_week) or any(
        bound is not None
        for bound in (asked.start_minute, asked.end_minute, asked.start_date, asked.end_date)
    )


def state_holds(asked: Restrictions, period: Period) -> bool:
    """Whether the bounds on energy, duration, power and current hold."""
    return (
        _from_until(period.energy_before_wh, asked.min_energy_wh, asked.max_energy_wh)
        and _from_until(period.elapsed_s, asked.min_duration_s, asked.max_duration_s)
        and _throughout(period.power, asked.min_power_w, asked.max_power_w)
        and _throughout(period.current, asked.min_current_ma, asked.max_current_ma)
    )


def _from_until(value: Fraction, low: int | None, high: int | None) -> bool:
    return (low is None or value >= low) and (high is None or value < high)


def _throughout(value: Bounds, low: int | None, high: int | None) -> bool:
    """Whether a bound holds in all of a period; one on what is not known does not."""
    if low is not None and (value.least is None or value.least < low):
        return False
    return high is None or (value.greatest is not None and value.greatest < high)
