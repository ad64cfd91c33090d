"""Money: integers, one rounding rule, exact text."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import SPEC
from voucher_grpc.currencies import payable_unit_micros
from voucher_grpc.domain.catalogue.values import money_from_text
from voucher_grpc.edge.wire.messages import money_message, money_of
from voucher_grpc.errors import BadInput
from voucher_grpc.money import (
    Money,
    decimal_from_micros,
    micros_from_decimal,
    round_half_away,
    tax_micros,
)

amounts = st.integers(-(10**15), 10**15)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [("1/2", 1), ("-1/2", -1), ("3/2", 2), ("-3/2", -2), ("5/2", 3), ("1/3", 0), ("-2/3", -1)],
)
def test_a_half_is_rounded_away_from_zero(value: str, rounded: int) -> None:
    """Not to even, and the same on both sides of zero."""
    assert rounded == round_half_away(Fraction(value))


@SPEC
@given(st.fractions(), st.integers(-1000, 1000))
def test_rounding_is_the_nearest_integer_wherever_zero_is(value: Fraction, whole: int) -> None:
    """Never farther than a half, symmetric, and integers stay."""
    assert abs(round_half_away(value) - value) <= Fraction(1, 2)
    assert -round_half_away(value) == round_half_away(-value)
    assert whole == round_half_away(Fraction(whole))


@pytest.mark.parametrize(
    ("price", "rate", "tax"),
    [
        (125_000_000, 2_500, 25_000_000),
        (49_000_000, 2_500, 9_800_000),
        (100, 1_900, 16),  # 15.966
        (0, 2_500, 0),
        (49_000_000, 0, 0),
        (3, 10_000, 2),  # 1.5
    ],
)
def test_the_tax_is_contained_in_the_price(price: int, rate: int, tax: int) -> None:
    """Price * rate / (1 + rate), rounded once."""
    assert tax == tax_micros(price, rate)


@SPEC
@given(st.integers(0, 10**12), st.integers(0, 10_000))
def test_price_before_tax_and_tax_add_up_to_the_price(price: int, rate: int) -> None:
    """The tax on what is left, within the rounding."""
    tax = tax_micros(price, rate)
    assert 0 <= tax <= price
    assert abs(Fraction(price - tax) * rate / 10_000 - tax) <= 1


@SPEC
@given(amounts)
def test_text_of_an_amount_reads_back_exactly(micros: int) -> None:
    """At least two places, as many as are needed."""
    money = Money(micros, "NOK")
    assert money == money_from_text(str(money), "price")
    assert micros == micros_from_decimal(decimal_from_micros(micros))
    assert money == money_of(money_message(money))


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (49_000_000, "49.00 NOK"),
        (1, "0.000001 NOK"),
        (-1_500_000, "-1.50 NOK"),
        (0, "0.00 NOK"),
        (10**12, "1000000.00 NOK"),
        (1_239_999, "1.239999 NOK"),
    ],
)
def test_an_amount_is_written_with_two_places_or_more(micros: int, text: str) -> None:
    """As people write money, without exponents."""
    assert text == str(Money(micros, "NOK"))


def test_a_decimal_beyond_a_micro_unit_is_rounded_half_away() -> None:
    """The same rule for decimals."""
    assert [1, -1, 0] == [micros_from_decimal(Decimal(d)) for d in ("5e-7", "-5e-7", "4.9e-7")]


@pytest.mark.parametrize(
    "text", ["", "49", "49 NOK x", "x NOK", "1e99 NOK", "nan NOK", "0.0000001 NOK"]
)
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    """By the path of the field."""
    with pytest.raises(BadInput, match="price"):
        money_from_text(text, "price")


@SPEC
@given(amounts)
def test_units_and_nanos_have_one_sign(micros: int) -> None:
    """As google.type.Money demands."""
    message = money_message(Money(micros, "NOK"))
    assert message.units * message.nanos >= 0
    assert abs(message.nanos) < 10**9


@pytest.mark.parametrize(
    ("currency", "unit"),
    [("NOK", 10_000), ("JPY", 1_000_000), ("KRW", 1_000_000), ("TND", 1_000), ("ZZZ", None)],
)
def test_the_smallest_payable_unit_is_that_of_the_currency(currency: str, unit: int | None) -> None:
    """A yen has no part, and a currency that is not one has no unit."""
    assert unit == payable_unit_micros(currency)
