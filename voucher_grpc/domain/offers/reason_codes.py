"""The codes of reasons, and which of them the conditions of a product allow."""

from enum import StrEnum
from typing import NamedTuple


class ReasonCode(StrEnum):
    """Why something is offered; the same list as OfferReasonCode in offer.proto."""

    SAVES_ON_USUAL_CHARGING = "SAVES_ON_USUAL_CHARGING"
    FITS_YOUR_HOURS = "FITS_YOUR_HOURS"
    FITS_YOUR_DAYS = "FITS_YOUR_DAYS"
    FITS_YOUR_PLACES = "FITS_YOUR_PLACES"
    FITS_YOUR_ENERGY = "FITS_YOUR_ENERGY"
    FITS_YOUR_SESSIONS = "FITS_YOUR_SESSIONS"
    NOTHING_PAYS = "NOTHING_PAYS"
    USER_UNKNOWN = "USER_UNKNOWN"
    PRICE_UNKNOWN = "PRICE_UNKNOWN"
    SAVING_RANGE = "SAVING_RANGE"
    PAYS_FROM_ENERGY = "PAYS_FROM_ENERGY"
    PAYS_FROM_SESSIONS = "PAYS_FROM_SESSIONS"


class Mentioned(NamedTuple):
    """What reasons can say of a product: hours or days, places, what it holds."""

    window: ReasonCode | None
    places: bool
    holds: ReasonCode | None
    amount: float
    length_days: float
