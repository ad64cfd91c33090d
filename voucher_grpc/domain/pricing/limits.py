"""`min_price` and `max_price` of a tariff (OCPI 2.2.1, 11.3.1 Tariff object): they bound the whole
price of a charge, before and after tax."""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from voucher_grpc.domain.pricing.amounts import Amount, TaxIncluded, taxed
from voucher_grpc.domain.pricing.tariff import PriceLimit, Tariff


class Limit(StrEnum):
    """Which bound of the tariff decided the total."""

    MIN_PRICE = "MIN_PRICE"
    MAX_PRICE = "MAX_PRICE"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a charge costs at least and at most, in micro-units; None: no such bound."""

    least: Amount | None = None
    most: Amount | None = None

    def applied_to(
        self, amount: Amount, least_share: Fraction = Fraction(1)
    ) -> tuple[Amount, Limit | None]:
        """The amount within the bounds, and which bound has changed it.

        Of the lower bound only `least_share` counts. Where both contradict, the upper one counts.
        """
        if self.least is None and self.most is None:
            return amount, None
        before, after = amount
        limit = None
        if self.least is not None:
            before = max(before, self.least.before_tax * least_share)
            after = max(after, self.least.after_tax * least_share)
            if (before, after) != amount:
                limit = Limit.MIN_PRICE
        if self.most is not None and (before > self.most.before_tax or after > self.most.after_tax):
            before, after = min(before, self.most.before_tax), min(after, self.most.after_tax)
            limit = Limit.MAX_PRICE
        return Amount(before, after), limit


_UNLIMITED = Limits()


def limits_of(tariff: Tariff, unlimited: Amount, default_tax_rate: Fraction | None) -> Limits:
    """The bounds of a charge that costs `unlimited` without them.

    A bound that is stated only before or only after tax has the share of tax that the whole
    has; where nothing is billed, that of the configured rate.
    """
    if tariff.min_price is None and tariff.max_price is None:
        return _UNLIMITED
    before, after = unlimited
    factor = after / before if before else taxed(Fraction(1), default_tax_rate, TaxIncluded.NO)[1]
    if not before and tariff.tax_included is TaxIncluded.NOT_APPLICABLE:
        factor = Fraction(1)
    return Limits(_completed(tariff.min_price, factor), _completed(tariff.max_price, factor))


def _completed(bound: PriceLimit | None, factor: Fraction) -> Amount | None:
    if bound is None:
        return None
    before, after = bound.before_tax_micros, bound.after_tax_micros
    if before is not None:
        return Amount(Fraction(before), before * factor if after is None else Fraction(after))
    return None if after is None else Amount(after / factor, Fraction(after))
