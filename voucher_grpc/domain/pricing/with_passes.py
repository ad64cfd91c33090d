"""What is left to pay of a priced charge with the passes that it is used with.

The rules are those of docs/pricing.md, "With a pass", period by period: a pass covers the
periods in which its conditions hold. Several passes cover in their order; what one has covered
the next does not. One pass without conditions leaves what `benefits` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from voucher_grpc.domain.catalogue.product import (
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    SessionBundle,
)
from voucher_grpc.domain.pricing.amounts import NOTHING, Amount, sum_of
from voucher_grpc.domain.pricing.charge import Quantity
from voucher_grpc.domain.pricing.engine import Category, ChargePrice, PricedPeriod
from voucher_grpc.money import BASIS_POINTS, round_half_away

_ZERO, _ONE = Fraction(0), Fraction(1)
_KEPT = (Category.PARKING, Category.RESERVATION)


class UsedPass(NamedTuple):
    """A pass that a charge is used with: what it gives, what is left of it (None: its benefit has
    no such measure), and in which of the charge's periods its conditions hold."""

    benefit: Benefit
    energy_left_wh: int | None
    sessions_left: int | None
    inside: Sequence[bool]


class Taken(NamedTuple):
    """What a charge takes from a pass. `energy_wh` is what the pass covers or gives a price for,
    rounded once for the whole charge; `saved` is in micro-units after tax, not rounded.

    Of a bundle of energy it is never more than was left.
    """

    energy_wh: int
    sessions: int
    saved: Fraction


@dataclass(frozen=True, slots=True)
class PriceWithPasses:
    """What is left to pay, not rounded, and what each pass has given, in their order."""

    total: Amount
    taken: tuple[Taken, ...]


@dataclass(slots=True)
class _Part:
    """What of a period is not covered yet. `open_wh` is the energy that a pass may cover; with
    `given` another pass has given its price, its percentage or its session for the period."""

    measured_wh: Fraction
    open_wh: Fraction
    energy: Amount
    energy_per_wh: Amount
    others: Amount
    kept: Amount
    given: bool = False

    @property
    def billed(self) -> Amount:
        return sum_of((self.energy, self.others, self.kept))

    def cover(self, energy_wh: Fraction) -> None:
        """Bill so much measured energy no more; what a step has added is billed."""
        self.open_wh -= energy_wh
        before, after = self.energy_per_wh
        self.energy = Amount(
            self.energy.before_tax - before * energy_wh, self.energy.after_tax - after * energy_wh
        )


@dataclass(slots=True)
class _State:
    parts: list[_Part]
    covered_wh: Fraction = _ZERO
    covers: bool = False
    # What is paid for energy at a pass's price, before and after tax.
    replaced: Amount = NOTHING
    reduced: list[tuple[int, list[_Part]]] = field(default_factory=list)


def price_with_passes(price: ChargePrice, passes: Sequence[UsedPass]) -> PriceWithPasses:
    """What is left to pay with passes, used in the order given."""
    state = _State([_part(period) for period in price.periods])
    total, taken = price.total, []
    for used in passes:
        energy_wh, sessions = _use(used, state)
        left = _total(price, state)
        taken.append(Taken(round_half_away(energy_wh), sessions, total.after_tax - left.after_tax))
        total = left
    return PriceWithPasses(total, tuple(taken))


def _part(period: PricedPeriod) -> _Part:
    measured_wh = period.period.volumes.get(Quantity.ENERGY, _ZERO)
    of_energy = [item for item in period.items if item.category is Category.ENERGY]
    energy = sum_of(item.amount for item in of_energy)
    billed_wh = sum((item.billed_volume for item in of_energy), _ZERO)
    per_wh = Amount(energy[0] / billed_wh, energy[1] / billed_wh) if billed_wh else NOTHING
    others = (Category.TIME, Category.FIXED)
    return _Part(
        measured_wh=measured_wh,
        open_wh=measured_wh,
        energy=energy,
        energy_per_wh=per_wh,
        others=sum_of(item.amount for item in period.items if item.category in others),
        kept=sum_of(item.amount for item in period.items if item.category in _KEPT),
    )


def _use(used: UsedPass, state: _State) -> tuple[Fraction, int]:
    """(the energy that the pass covers or prices, its sessions that are used)."""
    parts = [part for part, inside in zip(state.parts, used.inside, strict=True) if inside]
    match used.benefit:
        case EnergyBundle() | FlatPeriod():
            return _use_energy(Fraction(used.energy_left_wh or 0), parts, state), 0
        case SessionBundle(max_energy_wh_per_session=cap_wh):
            parts = [part for part in parts if not part.given]
            anything = any(part.open_wh or part.others.after_tax for part in parts)
            if not anything or not used.sessions_left:
                return _ZERO, 0
            return _use_session(Fraction(cap_wh) if cap_wh else None, parts, state), 1
        case EnergyPrice(price_micros):
            return _use_price(price_micros, parts, state), 0
        case PercentageOff(basis_points):
            parts = [part for part in parts if not part.given]
            state.reduced.append((basis_points, parts))
            energy_wh = sum((part.open_wh for part in parts), _ZERO)
            for part in parts:
                part.open_wh, part.given = _ZERO, True
            return energy_wh, 0


def _use_energy(left_wh: Fraction, parts: Sequence[_Part], state: _State) -> Fraction:
    used_wh = _ZERO
    for part in parts:
        covered_wh = min(left_wh - used_wh, part.open_wh)
        if covered_wh:
            part.cover(covered_wh)
            used_wh += covered_wh
    state.covers = state.covers or bool(parts and left_wh)
    state.covered_wh += used_wh
    return used_wh


def _use_session(cap_wh: Fraction | None, parts: Sequence[_Part], state: _State) -> Fraction:
    open_wh = sum((part.open_wh for part in parts), _ZERO)
    for part in parts:
        part.others, part.given = NOTHING, True
    if cap_wh is not None and cap_wh < open_wh:
        return _use_energy(cap_wh, parts, state)
    for part in parts:
        if part.open_wh == part.measured_wh:
            part.energy = NOTHING  # with what its step has added
        else:
            part.cover(part.open_wh)
        part.open_wh = _ZERO
    state.covers = True
    state.covered_wh += open_wh
    return open_wh


def _use_price(price_micros: int, parts: Sequence[_Part], state: _State) -> Fraction:
    """Before tax a pass's price bears the tax that the price which it replaces bears."""
    energy_wh, replaced = _ZERO, [state.replaced]
    for part in parts:
        before, after = part.energy_per_wh
        share = before / after if after else _ONE
        paid = part.open_wh * price_micros / 1_000
        replaced.append(Amount(paid * share, paid))
        energy_wh += part.open_wh
        if part.open_wh == part.measured_wh:
            part.energy = NOTHING
        else:
            part.cover(part.open_wh)
        part.open_wh, part.given = _ZERO, True
    state.replaced = sum_of(replaced)
    return energy_wh


def _total(price: ChargePrice, state: _State) -> Amount:
    billed = sum_of(part.billed for part in state.parts)
    replaced = state.replaced
    share = _uncovered_share(state)
    bounded = price.limits.applied_to
    # The pass states its price with tax only: a limit before tax does not bound it.
    after = bounded(Amount(billed[0], billed[1] + replaced[1]), share)[0].after_tax
    before = bounded(Amount(billed[0] + replaced[0], billed[1] + replaced[1]), share)[0].before_tax
    left = _ONE - sum((_reduction(bp, parts, state) for bp, parts in state.reduced), _ZERO)
    return Amount(min(before, after) * left, after * left)


def _uncovered_share(state: _State) -> Fraction:
    """Of the measured energy; a charge without energy is covered if a pass covers any of it."""
    measured_wh = sum((part.measured_wh for part in state.parts), _ZERO)
    if not measured_wh:
        return _ZERO if state.covers else _ONE
    return 1 - state.covered_wh / measured_wh


def _reduction(basis_points: int, parts: Sequence[_Part], state: _State) -> Fraction:
    """The part of the whole that a percentage takes off: all of it where its conditions hold in
    all periods, else by what the periods cost in which they hold."""
    share = _ONE
    if len(parts) < len(state.parts):
        whole = sum_of(part.billed for part in state.parts).after_tax + state.replaced.after_tax
        inside = sum_of(part.billed for part in parts).after_tax
        if whole:
            share = inside / whole
        else:
            measured_wh = sum((part.measured_wh for part in state.parts), _ZERO)
            inside_wh = sum((part.measured_wh for part in parts), _ZERO)
            share = inside_wh / measured_wh if measured_wh else _ZERO
    return share * Fraction(basis_points, BASIS_POINTS)
