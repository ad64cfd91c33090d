"""Which of a connector's tariffs prices a charge.

OCPI 2.2.1, 8.3.3 Connector object, `tariff_ids`: several tariffs may apply, of different types
and at different times, each for one currency.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from voucher_grpc.domain.pricing.tariff import Tariff, TariffType


class Chosen(NamedTuple):
    """A tariff; `ad_hoc_only` if there is none but for those who pay without a contract."""

    tariff: Tariff
    ad_hoc_only: bool = False


def choose_tariff(
    tariffs: Iterable[Tariff],
    at: datetime,
    currency_code: str = "",
    profile: TariffType = TariffType.REGULAR,
) -> Chosen | None:
    """The tariff of a charge that begins `at`; None: none is valid then.

    Of those valid at the start, in the currency if one is asked for: that of the declared
    profile, else REGULAR, else one without a type, which is for all sessions, else one for
    AD_HOC_PAYMENT; of several of a kind the first in the connector's order.
    """
    valid = [
        tariff
        for tariff in tariffs
        if tariff.valid_at(at) and currency_code in ("", tariff.currency_code)
    ]
    for kind in (profile, TariffType.REGULAR, None):
        for tariff in valid:
            if tariff.type is kind:
                return Chosen(tariff)
    ad_hoc = next((t for t in valid if t.type is TariffType.AD_HOC_PAYMENT), None)
    return None if ad_hoc is None else Chosen(ad_hoc, ad_hoc_only=True)
