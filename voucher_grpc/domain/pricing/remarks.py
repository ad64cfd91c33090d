"""What a reader of a price should know: what was assumed, and what is not in it."""

from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple
from zoneinfo import ZoneInfo

from voucher_grpc.domain.pricing.charge import (
    SECONDS_PER_HOUR,
    UNKNOWN,
    Charge,
    Period,
    Phase,
    Quantity,
)
from voucher_grpc.domain.pricing.engine import ChargePrice, Pricer
from voucher_grpc.domain.pricing.split import Cuts, cuts_of, split
from voucher_grpc.domain.pricing.tariff import Tariff, TariffType

# A tariff of many windows and a charge of many periods would take seconds to look through.
_MOST_PERIODS = 500


class Remark(StrEnum):
    """The kinds."""

    UNPRICED = "UNPRICED"
    ELEMENTS_SKIPPED = "ELEMENTS_SKIPPED"
    TARIFF_NOT_VALID = "TARIFF_NOT_VALID"
    MEAN_POWER = "MEAN_POWER"
    CURRENT_UNKNOWN = "CURRENT_UNKNOWN"
    BOUNDARY_INSIDE_PERIOD = "BOUNDARY_INSIDE_PERIOD"
    AD_HOC_ONLY = "AD_HOC_ONLY"
    ASSUMED_POWER = "ASSUMED_POWER"


class Warned(NamedTuple):
    """A remark, and the sentence that says it."""

    remark: Remark
    text: str


def remarks(tariff: Tariff, periods: Sequence[Period], price: ChargePrice) -> list[Warned]:
    """What is to be said of a price; `periods` are as the charge states them."""
    found: list[Warned] = []
    if not any(period.items for period in price.periods):
        found.append(Warned(Remark.UNPRICED, "no element of the tariff prices this charge"))
    if tariff.skipped_elements:
        text = f"{tariff.skipped_elements} elements of the tariff are not understood in full"
        found.append(Warned(Remark.ELEMENTS_SKIPPED, text))
    if periods and not tariff.valid_at(periods[0].start):
        found.append(Warned(Remark.TARIFF_NOT_VALID, "the tariff is not valid at the start"))
    if tariff.type is TariffType.AD_HOC_PAYMENT:
        text = "the tariff is for those who pay without a contract: no other is valid"
        found.append(Warned(Remark.AD_HOC_ONLY, text))
    asked = [element.restrictions for element in tariff.elements]
    if any(r.min_power_w is not None or r.max_power_w is not None for r in asked) and any(
        period.power == UNKNOWN for period in periods
    ):
        text = "the tariff depends on power, which is not stated: the mean of each period is taken"
        found.append(Warned(Remark.MEAN_POWER, text))
    if any(r.min_current_ma is not None or r.max_current_ma is not None for r in asked) and any(
        period.current == UNKNOWN for period in periods
    ):
        text = "the tariff depends on current, which is not stated: such elements do not apply"
        found.append(Warned(Remark.CURRENT_UNKNOWN, text))
    return found


def boundaries_inside(tariff: Tariff, periods: Sequence[Period], zone: ZoneInfo) -> list[Warned]:
    """Stated periods inside which another element would begin to apply.

    They are priced by their start all the same (OCPI 2.2.1, 10.4.2 ChargingPeriod).
    """
    found, cuts, pricer = [], cuts_of(tariff), Pricer(tariff, zone, None)
    for number, period in enumerate(periods[:_MOST_PERIODS]):
        if period.length_s and _changes_inside(pricer, cuts, period, zone):
            text = f"charging_periods[{number}]: other prices begin to apply inside it"
            found.append(Warned(Remark.BOUNDARY_INSIDE_PERIOD, text))
    return found


def _changes_inside(pricer: Pricer, cuts: Cuts, period: Period, zone: ZoneInfo) -> bool:
    energy_wh = period.volumes.get(Quantity.ENERGY, Fraction(0))
    phase = Phase(period.length_s, energy_wh * SECONDS_PER_HOUR / period.length_s)
    part = Charge(period.start, (phase,), period.elapsed_s, period.energy_before_wh)
    applied = {
        tuple((item.element, item.component) for item in priced.items)
        for piece in split(part, cuts, zone)
        for priced in pricer.price([_at(piece, period)]).periods
    }
    return len(applied) > 1


def _at(piece: Period, period: Period) -> Period:
    """The period as if it began with the piece."""
    return period._replace(
        start=piece.start,
        elapsed_s=piece.elapsed_s,
        energy_before_wh=piece.energy_before_wh,
    )
