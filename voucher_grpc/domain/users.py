"""Who owns passes."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class User:
    """Who owns passes; "" where a thing is not known."""

    user_id: str
    time_zone: str = ""
    currency_code: str = ""
    language: str = ""
    country_code: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None
