"""Charges as the engine takes them: periods, each priced by its state at its start.

A charge given by start and end is made of phases, which `split` cuts into periods wherever a
restriction of the tariff starts or stops to hold. OCPI charging periods are taken as they are
(OCPI 2.2.1, 10.4.2 ChargingPeriod: a new one starts when something relevant for the price changes).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

from voucher_grpc.errors import bad_field

SECONDS_PER_HOUR = 3_600
MAX_CHARGE = timedelta(days=92)


class Quantity(StrEnum):
    """OCPI CdrDimensionType, those that are billed: energy in Wh, times in seconds."""

    ENERGY = "ENERGY"
    TIME = "TIME"
    PARKING_TIME = "PARKING_TIME"
    RESERVATION_TIME = "RESERVATION_TIME"


class Bounds(NamedTuple):
    """The smallest and the greatest value of a period; None: not known."""

    least: Fraction | None = None
    greatest: Fraction | None = None


UNKNOWN = Bounds()


class Period(NamedTuple):
    """A part of a charge: its state at its start, and what was used in it.

    `elapsed_s` and `energy_before_wh` are since the charge's start; `power` in W,
    `current` in mA. `tariff_id` names the tariff of this period where the charge states it.
    """

    start: datetime
    elapsed_s: Fraction
    energy_before_wh: Fraction
    volumes: Mapping[Quantity, Fraction]
    power: Bounds = UNKNOWN
    current: Bounds = UNKNOWN
    length_s: Fraction = Fraction(0)
    tariff_id: str = ""


class Phase(NamedTuple):
    """A time in which power and current stay the same; with `power_w` 0 the vehicle parks.

    `shown_power_w` is what restrictions on power see, if that is another.
    """

    length_s: Fraction
    power_w: Fraction
    current_ma: Fraction | None = None
    shown_power_w: Fraction | None = None


class Charge(NamedTuple):
    """What happened at a connector from `start` on, phase after phase.

    The last two are what it had reached by then, if it began before.
    """

    start: datetime
    phases: tuple[Phase, ...]
    elapsed_s: Fraction = Fraction(0)
    energy_before_wh: Fraction = Fraction(0)


def charge_between(
    start: datetime,
    end: datetime,
    energy_wh: Fraction,
    power_w: Fraction | None = None,
    current_ma: Fraction | None = None,
) -> Charge:
    """A vehicle that charges from `start` at `power_w` until it has `energy_wh`, then parks.

    Where time or power do not suffice, it takes what it can. Without a power it charges at the
    mean power, until `end`. Raises BadInput.
    """
    if end <= start:
        raise bad_field("end", "must be after the start")
    if end - start > MAX_CHARGE:
        raise bad_field("end", f"must be at most {MAX_CHARGE.days} days after the start")
    if energy_wh < 0:
        raise bad_field("energy_kwh", "must not be below 0")
    if power_w is not None and power_w <= 0:
        raise bad_field("power_kw", "must be above 0")
    length_s = seconds(end - start)
    if power_w is None:
        power_w = energy_wh * SECONDS_PER_HOUR / length_s
    charging_s = min(length_s, energy_wh * SECONDS_PER_HOUR / power_w) if power_w else Fraction(0)
    phases = [
        Phase(charging_s, power_w, current_ma),
        Phase(length_s - charging_s, Fraction(0), None if current_ma is None else Fraction(0)),
    ]
    return Charge(start.astimezone(UTC), tuple(phase for phase in phases if phase.length_s))


def charge_at_connector(start: datetime, end: datetime, energy_wh: int, power_w: int) -> Charge:
    """A charge whose energy is a fact: at the connector's power, or at the mean power where that
    is not enough. Restrictions on power see no more than the connector's. Raises BadInput."""
    energy = Fraction(energy_wh)
    charge = charge_between(start, end, energy, Fraction(power_w))
    if energy * SECONDS_PER_HOUR <= seconds(end - start) * power_w:
        return charge
    [phase] = charge_between(start, end, energy).phases
    return charge._replace(phases=(phase._replace(shown_power_w=Fraction(power_w)),))


def seconds(length: timedelta) -> Fraction:
    """Exact seconds."""
    return Fraction(length // timedelta(microseconds=1), 1_000_000)


def with_mean_power(periods: Sequence[Period]) -> tuple[Period, ...]:
    """The periods, with their mean power where they state none and it follows from them."""
    return tuple(
        period if period.power != UNKNOWN or not period.length_s else _with_mean(period)
        for period in periods
    )


def _with_mean(period: Period) -> Period:
    energy_wh = period.volumes.get(Quantity.ENERGY, Fraction(0))
    mean_w = energy_wh * SECONDS_PER_HOUR / period.length_s
    return period._replace(power=Bounds(mean_w, mean_w))
