"""Money in integer micro-units and the one rounding rule.

An amount that is computed is rounded once, at its end, to a micro-unit, half
away from zero. What a customer pays is a multiple of the currency's smallest
payable unit from the start, so it never needs rounding.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

MICROS = 1_000_000
BASIS_POINTS = 10_000


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in `micros`, millionths of the unit of `currency_code` (ISO 4217)."""

    micros: int
    currency_code: str

    def __str__(self) -> str:
        return f"{decimal_from_micros(self.micros):f} {self.currency_code}"


def round_half_away(value: Fraction) -> int:
    """The nearest integer; a half goes away from zero."""
    magnitude = (2 * abs(value.numerator) + value.denominator) // (2 * value.denominator)
    return magnitude if value >= 0 else -magnitude


def tax_micros(price_micros: int, tax_rate_basis_points: int) -> int:
    """The tax contained in a price that includes it: price * rate / (1 + rate)."""
    rate = Fraction(tax_rate_basis_points, BASIS_POINTS)
    return round_half_away(price_micros * rate / (1 + rate))


def decimal_from_micros(micros: int) -> Decimal:
    """Units as an exact decimal with at least two places: 49000000 is 49.00."""
    value = Decimal(micros).scaleb(-6).normalize()
    exponent = value.as_tuple().exponent
    places = max(2, -exponent if isinstance(exponent, int) else 2)
    return value.quantize(Decimal(1).scaleb(-places))


def micros_from_decimal(value: Decimal) -> int:
    """Micro-units of a decimal amount, rounded by the rule above."""
    return int(value.scaleb(6).quantize(Decimal(1), rounding=ROUND_HALF_UP))
