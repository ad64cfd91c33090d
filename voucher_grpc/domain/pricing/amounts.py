"""Amounts before and after tax, exact, and how a price becomes one.

OCPI 2.2.1 states prices without VAT and the VAT of each component as a percentage; OCPI 2.3.0
adds to the tariff whether its prices include taxes (`tax_included`: YES, NO or N/A).
"""

from collections.abc import Iterable
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple


class TaxIncluded(StrEnum):
    """OCPI 2.3.0 TaxIncluded; of a tariff that does not state it, prices are without tax."""

    YES = "YES"
    NO = "NO"
    NOT_APPLICABLE = "N/A"


class Amount(NamedTuple):
    """Micro-units of the currency, not rounded."""

    before_tax: Fraction
    after_tax: Fraction


NOTHING = Amount(Fraction(0), Fraction(0))


def sum_of(amounts: Iterable[Amount]) -> Amount:
    """Both sums."""
    total = NOTHING
    for amount in amounts:
        if total is NOTHING:
            total = amount
        elif amount is not NOTHING:  # exact sums take time
            total = Amount(total[0] + amount[0], total[1] + amount[1])
    return total


def taxed(price: Fraction, tax_rate: Fraction | None, included: TaxIncluded) -> Amount:
    """A stated price as an amount; `tax_rate` is a share of the price without tax, None: none.

    OCPI 2.3.0, 11.3.1 Tariff object, `tax_included`; 11.4.2 PriceComponent, `vat`: "If omitted,
    no VAT is applicable".
    """
    if included is TaxIncluded.NOT_APPLICABLE or not tax_rate:
        return Amount(price, price)
    if included is TaxIncluded.YES:
        return Amount(price / (1 + tax_rate), price)
    return Amount(price, price * (1 + tax_rate))
