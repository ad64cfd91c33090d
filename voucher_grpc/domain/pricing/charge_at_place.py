"""A charge at a place that is to be priced, and what it costs."""

from datetime import datetime
from typing import NamedTuple

from voucher_grpc.domain.pricing.engine import ChargePrice
from voucher_grpc.domain.pricing.remarks import Warned
from voucher_grpc.domain.pricing.tariff import Tariff, TariffType
from voucher_grpc.ocpi import PlaceKey


class ChargeAtPlace(NamedTuple):
    """A charge; `power_w` 0: that of the connector; `currency_code` and `tariff_id` may be ""."""

    place: PlaceKey
    start: datetime
    end: datetime
    energy_wh: int
    power_w: int = 0
    currency_code: str = ""
    profile: TariffType = TariffType.REGULAR
    tariff_id: str = ""


class PricedCharge(NamedTuple):
    """What it costs, by which tariff, and what is to be said of it."""

    tariff: Tariff
    price: ChargePrice
    remarks: list[Warned]
