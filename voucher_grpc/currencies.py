"""Currencies of ISO 4217 and their smallest payable units, as CLDR has them."""

from functools import lru_cache

from babel.core import get_global
from babel.numbers import get_currency_precision

from voucher_grpc.money import MICROS


@lru_cache(maxsize=512)
def payable_unit_micros(currency_code: str) -> int | None:
    """The smallest payable unit in micro-units: 10,000 for NOK, 1,000,000 for KRW.

    None if there is no such currency.
    """
    if currency_code not in get_global("all_currencies"):
        return None
    precision: int = get_currency_precision(currency_code)
    return int(MICROS // 10**precision)
