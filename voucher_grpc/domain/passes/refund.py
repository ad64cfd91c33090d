"""What is given back for a cancelled pass: the part of its price for what was not used.

In proportion to what has been provided until then, as article 14 (3) of the EU's
directive 2011/83 on consumer rights has it. Rounded once, half away from zero, to the
currency's smallest payable unit.
"""

from datetime import datetime, timedelta
from fractions import Fraction

from voucher_grpc.currencies import payable_unit_micros
from voucher_grpc.domain.catalogue.product import (
    EnergyBundle,
    FlatPeriod,
    SessionBundle,
    Terms,
    ValidityPeriod,
)
from voucher_grpc.domain.passes.state import Pass
from voucher_grpc.money import round_half_away

_MICROSECOND = timedelta(microseconds=1)


def withdrawal_end(terms: Terms, owned: Pass) -> datetime | None:
    """Until when a pass that was paid can be cancelled, exclusive; None if it cannot."""
    if not terms.withdrawal_days or owned.paid_time is None:
        return None
    return owned.paid_time + timedelta(days=terms.withdrawal_days)


def unused_share(terms: Terms, owned: Pass, at: datetime) -> Fraction:
    """How much of a pass was not used by `at`, 0 to 1.

    The energy or the sessions left of a bundle; of a flat period the lesser of energy
    and time left; of any other pass the time left.
    """
    match terms.benefit:
        case EnergyBundle(energy_wh):
            return Fraction(owned.balance.energy_wh or 0, energy_wh)
        case SessionBundle(sessions):
            return Fraction(owned.balance.sessions or 0, sessions)
        case FlatPeriod(energy_wh):
            energy_left = Fraction(owned.balance.energy_wh or 0, energy_wh)
            return min(energy_left, _time_left(owned.period, at))
        case _:
            return _time_left(owned.period, at)


def _time_left(period: ValidityPeriod, at: datetime) -> Fraction:
    if period.start_time is None or period.end_time is None or at <= period.start_time:
        return Fraction(1)
    length, left = period.end_time - period.start_time, period.end_time - at
    return max(Fraction(0), Fraction(left // _MICROSECOND, length // _MICROSECOND))


def refund_micros(terms: Terms, owned: Pass, at: datetime) -> int:
    """What is given back for a paid pass that is cancelled at `at`."""
    unit = payable_unit_micros(owned.price.currency_code) or 1
    return unit * round_half_away(owned.price.micros * unused_share(terms, owned, at) / unit)
