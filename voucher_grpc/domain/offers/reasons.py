"""Why a product is offered, as data: codes with their figures."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.catalogue.product import EnergyBundle, FlatPeriod, Product, SessionBundle
from voucher_grpc.domain.offers.columns import Columns
from voucher_grpc.domain.offers.reason_codes import Mentioned, ReasonCode
from voucher_grpc.domain.offers.valuation import PayAsYouGo, ProductValue


class OfferReason(NamedTuple):
    """A reason as data; `voucher_grpc.domain.offers.reason_texts` puts it into words.

    `figures` stand in the order of `FIGURES[code]`.
    """

    code: ReasonCode
    values: tuple[float, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """The figures by name."""
        return dict(zip(FIGURES[self.code], self.values, strict=True))


# The names of a reason's figures; money in units of the currency, energies in kWh.
FIGURES: Mapping[ReasonCode, tuple[str, ...]] = {
    ReasonCode.SAVES_ON_USUAL_CHARGING: (
        "expected_saving",
        "energy_kwh_per_30_days",
        "cost_per_30_days",
        "length_days",
        "silence_days",
    ),
    ReasonCode.SAVING_RANGE: ("saving_low", "saving_high"),
    ReasonCode.PAYS_FROM_ENERGY: ("break_even_kwh",),
    ReasonCode.PAYS_FROM_SESSIONS: ("break_even_sessions",),
    ReasonCode.FITS_YOUR_HOURS: ("share_in_window",),
    ReasonCode.FITS_YOUR_DAYS: ("share_in_window",),
    ReasonCode.FITS_YOUR_PLACES: ("share_at_places",),
    ReasonCode.FITS_YOUR_ENERGY: ("covered_energy_kwh", "bundle_kwh"),
    ReasonCode.FITS_YOUR_SESSIONS: ("covered_sessions", "bundle_sessions"),
    ReasonCode.NOTHING_PAYS: ("energy_kwh_per_30_days", "cost_per_30_days", "silence_days"),
    ReasonCode.USER_UNKNOWN: (),
    ReasonCode.PRICE_UNKNOWN: ("energy_kwh_per_30_days",),
}


class BreakEven(NamedTuple):
    """From when on a pass pays, over its life; None where the measure does not apply."""

    energy_wh: int | None = None
    sessions: int | None = None


# Less than a micro-unit a kWh is the noise of floats, not a gain.
_LEAST_GAIN_MICROS_PER_KWH = 1.0


def break_even_of(product: Product, product_value: ProductValue) -> BreakEven | None:
    """Fee / gain per covered kWh, the test that drivers do by hand (docs/model.md)."""
    if not product_value.gain_per_kwh >= _LEAST_GAIN_MICROS_PER_KWH:
        return None
    # A whole number of Wh is not to become the next for the noise of floats.
    energy_wh = math.ceil(product.terms.price.micros / product_value.gain_per_kwh * 1000 - 1e-6)
    match product.terms.benefit:
        case SessionBundle(sessions):
            needed = math.ceil(
                energy_wh / (product_value.covered_energy_wh / product_value.covered_sessions)
            )
            return BreakEven(sessions=needed) if needed <= sessions else None
        case EnergyBundle(bundle_wh) | FlatPeriod(bundle_wh):
            return BreakEven(energy_wh=energy_wh) if energy_wh <= bundle_wh else None
        case _:
            return BreakEven(energy_wh=energy_wh)


def break_even_reason(break_even: BreakEven | None) -> Sequence[OfferReason]:
    if break_even is None:
        return ()
    if break_even.sessions is not None:
        return (OfferReason(ReasonCode.PAYS_FROM_SESSIONS, (float(break_even.sessions),)),)
    return (OfferReason(ReasonCode.PAYS_FROM_ENERGY, ((break_even.energy_wh or 0) / 1000,)),)


# A condition is worth mentioning when it leaves something out and the user's
# charging is mostly inside.
_MENTION_SHARE = 0.4
# A range is worth mentioning when it is wider than this share of its greater end.
_MENTION_RANGE_SHARE = 0.01


def mentioned(columns: Columns, row: int) -> Mentioned:
    """What can be said of a product; stored with the columns, since it is the same for all."""
    found: Mentioned | None = columns.mentioned.get(row)
    if found is None:
        terms = columns.products[row].terms
        selectors = terms.conditions.selectors
        holds, amount = None, 0.0
        match terms.benefit:
            case EnergyBundle(bundle_wh) | FlatPeriod(bundle_wh):
                holds, amount = ReasonCode.FITS_YOUR_ENERGY, bundle_wh / 1000
            case SessionBundle(sessions):
                holds, amount = ReasonCode.FITS_YOUR_SESSIONS, float(sessions)
        found = columns.mentioned[row] = Mentioned(
            _window(terms.conditions.any_of),
            bool(selectors.parties or selectors.locations),
            holds,
            amount,
            columns.length_days.item(row),
        )
    return found


def _window(any_of: Sequence[Restrictions]) -> ReasonCode | None:
    if any(r.start_minute is not None or r.end_minute is not None for r in any_of):
        return ReasonCode.FITS_YOUR_HOURS
    return ReasonCode.FITS_YOUR_DAYS if any(r.day_of_week for r in any_of) else None


def reasons_for(
    columns: Columns,
    row: int,
    product_value: ProductValue,
    break_even: BreakEven | None,
    compared: PayAsYouGo,
    silence_days: float,
) -> list[OfferReason]:
    """Why a product is recommended, the strongest reason first."""
    window, at_places, holds, amount, length_days = mentioned(columns, row)
    saving, low, high, _, hours, places, covered_wh, covered_sessions, _ = product_value
    reasons = [
        OfferReason(
            ReasonCode.SAVES_ON_USUAL_CHARGING,
            (
                saving / 1e6,
                compared.energy_kwh_per_30_days,
                compared.cost_per_30_days / 1e6,
                length_days,
                silence_days,
            ),
        )
    ]
    if high - low > _MENTION_RANGE_SHARE * max(abs(low), abs(high)):
        reasons.append(OfferReason(ReasonCode.SAVING_RANGE, (low / 1e6, high / 1e6)))
    if window is not None and hours >= _MENTION_SHARE:
        reasons.append(OfferReason(window, (hours,)))
    if at_places and places >= _MENTION_SHARE:
        reasons.append(OfferReason(ReasonCode.FITS_YOUR_PLACES, (places,)))
    if holds is not None:
        used = covered_wh / 1000 if holds is ReasonCode.FITS_YOUR_ENERGY else covered_sessions
        reasons.append(OfferReason(holds, (used, amount)))
    reasons += break_even_reason(break_even)
    return reasons
