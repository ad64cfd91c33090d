"""What is left to pay of a priced charge that a pass is used for, after tax; not rounded.

The rules are those of docs/pricing.md, "With a pass". A pass never makes a charge dearer than
its terms say: what a benefit leaves is bounded by the tariff's limits, and of `min_price` only
the part that falls on energy that is not covered.
"""

from fractions import Fraction

from voucher_grpc.domain.pricing.amounts import NOTHING, Amount, sum_of
from voucher_grpc.domain.pricing.charge import Quantity
from voucher_grpc.domain.pricing.engine import Category, ChargePrice, Item
from voucher_grpc.money import BASIS_POINTS


def after_energy_bundle(price: ChargePrice, covered_wh: Fraction | None = None) -> Fraction:
    """With so much of the charge's energy covered (None: all), that which came first.

    What `step_size` adds is not covered; all other dimensions are billed.
    """
    covered = _covered_energy(price, covered_wh)
    return _left(price, _minus(price.unlimited, covered), _uncovered_share(price, covered_wh))


def after_session_bundle(price: ChargePrice, cap_wh: Fraction | None = None) -> Fraction:
    """With the session covered up to `cap_wh` (None: whatever its energy).

    Parking and a reservation are billed, and energy beyond the cap with its step.
    """
    energy = price.totals[Category.ENERGY]
    covered = energy if cap_wh is None or cap_wh >= _energy_wh(price) else None
    if covered is None:
        covered = _covered_energy(price, cap_wh)
    billed = sum_of(
        (
            price.totals[Category.PARKING],
            price.totals[Category.RESERVATION],
            _minus(energy, covered),
        )
    )
    return _left(price, billed, _uncovered_share(price, cap_wh))


def after_energy_price(price: ChargePrice, price_micros: int) -> Fraction:
    """With the ENERGY components replaced by a price per measured kWh, tax included."""
    others = _minus(price.unlimited, price.totals[Category.ENERGY])
    replaced = _energy_wh(price) * price_micros / 1_000 if price_micros else 0
    # The pass states its price with tax only: before tax it is bounded by what it is after.
    left = Amount(others.before_tax, others.after_tax + replaced)
    return price.limits.applied_to(left)[0].after_tax


def after_percentage_off(price: ChargePrice, basis_points: int) -> Fraction:
    """With the whole reduced by a share."""
    return price.total.after_tax * (BASIS_POINTS - basis_points) / BASIS_POINTS


def _left(price: ChargePrice, billed: Amount, uncovered_share: Fraction) -> Fraction:
    return price.limits.applied_to(billed, uncovered_share)[0].after_tax


def _minus(amount: Amount, part: Amount) -> Amount:
    if amount is part:
        return NOTHING
    if part is NOTHING:
        return amount
    return Amount(amount.before_tax - part.before_tax, amount.after_tax - part.after_tax)


def _energy_wh(price: ChargePrice) -> Fraction:
    """What was measured, whether it is priced or not."""
    volumes = (p.period.volumes.get(Quantity.ENERGY, Fraction(0)) for p in price.periods)
    return sum(volumes, Fraction(0))


def _uncovered_share(price: ChargePrice, covered_wh: Fraction | None) -> Fraction:
    """Of the measured energy; none of a charge without energy is covered by a part."""
    if covered_wh is None:
        return Fraction(0)
    energy_wh = _energy_wh(price)
    if covered_wh >= energy_wh:
        return Fraction(0)
    return 1 - covered_wh / energy_wh


def _covered_energy(price: ChargePrice, covered_wh: Fraction | None) -> Amount:
    """What the first measured Wh cost, those that nothing prices included."""
    covered: list[Amount] = []
    left_wh = covered_wh
    for priced in price.periods:
        measured_wh = priced.period.volumes.get(Quantity.ENERGY, Fraction(0))
        inside_wh = measured_wh if left_wh is None else min(left_wh, measured_wh)
        if left_wh is not None:
            left_wh -= inside_wh
        if inside_wh:
            covered += [
                _share_of(item, inside_wh)
                for item in priced.items
                if item.category is Category.ENERGY
            ]
    return sum_of(covered)


def _share_of(item: Item, inside_wh: Fraction) -> Amount:
    if inside_wh is item.billed_volume:
        return item.amount
    share = inside_wh / item.billed_volume
    return Amount(item.amount.before_tax * share, item.amount.after_tax * share)
