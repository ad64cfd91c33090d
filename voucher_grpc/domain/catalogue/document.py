"""A product as a document of plain values: the catalogue file and the stored revision.

One format for both, so that what an operator exports is what is kept. Energy is
in kWh and money in units, as decimals in text, because people write the file;
nothing is a binary float, so nothing is rounded on the way. The keys are listed
in docs/catalogue-file.md. An unknown or ill-typed key is refused by name.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from voucher_grpc.domain.catalogue.conditions import Restrictions, Selectors, UsageConditions
from voucher_grpc.domain.catalogue.product import (
    FIRST_USE_WITHIN_DAYS,
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    PersonalLimit,
    SessionBundle,
    Terms,
    Validity,
    ValidityStart,
)
from voucher_grpc.errors import bad_field
from voucher_grpc.money import Money, decimal_from_micros, micros_from_decimal
from voucher_grpc.ocpi import Day, PlaceKey, PowerType, VehicleType
from voucher_grpc.printable import printable

Document = dict[str, Any]
E_ = TypeVar("E_", bound=StrEnum)
WH_PER_KWH = 1000
# Beyond this a decimal is nonsense for any field and could be made to cost memory. With
# micro-units it stays exact in the 28 digits of the decimal context.
MAX_DECIMAL_DIGITS = 20
# Of a key that nobody knows, as a message names it.
MAX_KEY_CHARS = 100
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,9})?")


def _fail(path: str, message: str) -> NoReturn:
    raise bad_field(path, message)


class _Reader:
    """Takes the keys of one mapping by name and at the end refuses those left over."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            _fail(path, f"must be a mapping, not {type(value).__name__}")
        self.left = {str(key): item for key, item in value.items()}
        self.path = path

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        return self.left.get(key) is not None

    def take(self, key: str, *, required: bool = False) -> Any:
        value = self.left.pop(key, None)
        if value is None and required:
            _fail(self.at(key), "is missing")
        return value

    def text(self, key: str, *, required: bool = False) -> str:
        value = self.take(key, required=required)
        if value is not None and not isinstance(value, str):
            _fail(self.at(key), f"must be text, not {type(value).__name__}; put it in quotes")
        return value or ""

    def integer(self, key: str, default: int | None = None) -> int | None:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            _fail(self.at(key), "must be a whole number")
        return value

    def boolean(self, key: str) -> bool:
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            _fail(self.at(key), "must be true or false")
        return bool(value)

    def scaled(self, key: str, scale: int) -> int | None:
        """A decimal times `scale`, which must come out whole."""
        value = self.take(key)
        if value is None:
            return None
        exact = exactly_scaled(value, scale)
        if exact is not None:
            return exact
        number = decimal_from_value(value, self.at(key)) * scale
        if number != number.to_integral_value():
            _fail(self.at(key), f"has more places than 1/{scale}")
        return int(number)

    def items(self, key: str) -> list[Any]:
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            _fail(self.at(key), "must be a list")
        return value

    def choices(self, key: str, kind: type[E_]) -> list[E_]:
        return [
            _choice(item, kind, f"{self.at(key)}[{index}]")
            for index, item in enumerate(self.items(key))
        ]

    def end(self) -> None:
        if self.left:
            key = printable(next(iter(self.left)), MAX_KEY_CHARS)
            _fail(self.at(key), "is not a known key")


# The digits of decimals as they are kept: they need no decimal arithmetic.
_PLAIN = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?")
_PLACES = {1: 0, 100: 2, 1_000: 3, 1_000_000: 6}
_SMALL = 10**12


def exactly_scaled(value: object, scale: int) -> int | None:
    """A small whole number or the text of a decimal times `scale`, where that is quickly known
    and whole; else None. `scale` is 1, 100, 1,000 or 1,000,000."""
    if type(value) is int:
        return value * scale if -_SMALL < value < _SMALL else None
    plain = _PLAIN.fullmatch(value) if type(value) is str else None
    if plain is None:
        return None
    whole, fraction = plain.groups("")
    places = _PLACES[scale]
    return int(whole + fraction.ljust(places, "0")) if len(fraction) <= places else None


def decimal_from_value(value: object, path: str) -> Decimal:
    """A decimal number of at most 20 digits, also from text. Raises BadInput."""
    if not isinstance(value, (str, int, float, Decimal)):
        _fail(path, "must be a number")
    try:
        text = str(value)
    except ValueError:  # an int of thousands of digits
        text = ""
    if not _DECIMAL.fullmatch(text):
        _fail(path, f"must be a number of at most {MAX_DECIMAL_DIGITS} digits")
    number = Decimal(text)
    if max(abs(number.adjusted()), len(number.as_tuple().digits)) > MAX_DECIMAL_DIGITS:
        _fail(path, f"must be a number of at most {MAX_DECIMAL_DIGITS} digits")
    return number


def _choice(value: object, kind: type[E_], path: str) -> E_:
    try:
        return kind(str(value))
    except ValueError:
        _fail(path, f"must be one of {', '.join(kind)}")


def money_from_text(value: object, path: str) -> Money:
    """ "49.00 NOK" as Money."""
    parts = str(value).split()
    if not isinstance(value, str) or len(parts) != 2:
        _fail(path, 'must be an amount and a currency, for example "49.00 NOK"')
    return Money(micros_from_decimal(_micro_precise(parts[0], path)), parts[1])


def _micro_precise(value: object, path: str) -> Decimal:
    number = decimal_from_value(value, path)
    if number.scaleb(6) != number.scaleb(6).to_integral_value():
        _fail(path, "has more than 6 places")
    return number


def minute_from_text(value: object, path: str) -> int | None:
    """ "22:30" as minutes after midnight; None for nothing."""
    if value in (None, ""):
        return None
    if match := _TIME.fullmatch(str(value)):
        return int(match[1]) * 60 + int(match[2])
    _fail(path, 'must be a time from "00:00" to "23:59"')


def text_from_minute(minute: int | None) -> str | None:
    """Minutes after midnight as "22:30"."""
    return None if minute is None else f"{minute // 60:02d}:{minute % 60:02d}"


def date_from_text(value: object, path: str) -> date | None:
    """ "2026-11-22" as a date; None for nothing."""
    if value in (None, ""):
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        if _DATE.fullmatch(str(value)):  # fromisoformat takes weeks and other forms too
            return date.fromisoformat(str(value))
    except ValueError:
        pass
    _fail(path, 'must be a date such as "2026-11-22"')


def instant_from_text(value: object, path: str) -> datetime | None:
    """An RFC 3339 instant as UTC; None for nothing."""
    if value in (None, ""):
        return None
    if not isinstance(value, datetime):
        try:
            value = datetime.fromisoformat(str(value))
        except ValueError:
            _fail(path, 'must be an instant such as "2026-11-22T10:00:00Z"')
    if value.tzinfo is None:
        _fail(path, "must say its offset from UTC, for example by a Z at its end")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        _fail(path, "must be between the years 1 and 9999")


def _energy_bundle(reader: _Reader) -> EnergyBundle:
    return EnergyBundle(reader.scaled("energy_bundle_kwh", WH_PER_KWH) or 0)


def _session_bundle(reader: _Reader) -> SessionBundle:
    return SessionBundle(
        reader.integer("session_bundle") or 0,
        reader.scaled("max_energy_kwh_per_session", WH_PER_KWH) or 0,
    )


def _energy_price(reader: _Reader) -> EnergyPrice:
    path = reader.at("energy_price_per_kwh")
    price = _micro_precise(reader.take("energy_price_per_kwh"), path)
    return EnergyPrice(micros_from_decimal(price))


def _percentage_off(reader: _Reader) -> PercentageOff:
    return PercentageOff(reader.scaled("percentage_off", 100) or 0)


def _flat_period(reader: _Reader) -> FlatPeriod:
    return FlatPeriod(reader.scaled("flat_fair_use_kwh", WH_PER_KWH) or 0)


_BENEFITS: dict[str, Callable[[_Reader], Benefit]] = {
    "energy_bundle_kwh": _energy_bundle,
    "session_bundle": _session_bundle,
    "energy_price_per_kwh": _energy_price,
    "percentage_off": _percentage_off,
    "flat_fair_use_kwh": _flat_period,
}


def _benefit(value: object, path: str) -> Benefit:
    reader = _Reader(value, path)
    kinds = [kind for kind in _BENEFITS if reader.has(kind)]
    if len(kinds) != 1:
        _fail(path, f"must have exactly one of {', '.join(_BENEFITS)}")
    benefit = _BENEFITS[kinds[0]](reader)
    reader.end()
    return benefit


def restrictions_from_document(value: object, path: str) -> Restrictions:
    """OCPI TariffRestrictions (kW, kWh, A, s) as `Restrictions`."""
    reader = _Reader(value, path)
    result = Restrictions(
        start_minute=minute_from_text(reader.take("start_time"), reader.at("start_time")),
        end_minute=minute_from_text(reader.take("end_time"), reader.at("end_time")),
        start_date=date_from_text(reader.take("start_date"), reader.at("start_date")),
        end_date=date_from_text(reader.take("end_date"), reader.at("end_date")),
        day_of_week=frozenset(reader.choices("day_of_week", Day)),
        min_energy_wh=reader.scaled("min_kwh", WH_PER_KWH),
        max_energy_wh=reader.scaled("max_kwh", WH_PER_KWH),
        min_current_ma=reader.scaled("min_current", 1000),
        max_current_ma=reader.scaled("max_current", 1000),
        min_power_w=reader.scaled("min_power", 1000),
        max_power_w=reader.scaled("max_power", 1000),
        min_duration_s=reader.integer("min_duration"),
        max_duration_s=reader.integer("max_duration"),
    )
    reader.end()
    return result


def restrictions_to_document(restrictions: Restrictions) -> Document:
    """`Restrictions` as OCPI TariffRestrictions."""
    return without_empty(
        {
            "start_time": text_from_minute(restrictions.start_minute),
            "end_time": text_from_minute(restrictions.end_minute),
            "start_date": _iso(restrictions.start_date),
            "end_date": _iso(restrictions.end_date),
            "day_of_week": [day.value for day in Day if day in restrictions.day_of_week],
            "min_kwh": _kilo(restrictions.min_energy_wh),
            "max_kwh": _kilo(restrictions.max_energy_wh),
            "min_current": _kilo(restrictions.min_current_ma),
            "max_current": _kilo(restrictions.max_current_ma),
            "min_power": _kilo(restrictions.min_power_w),
            "max_power": _kilo(restrictions.max_power_w),
            "min_duration": restrictions.min_duration_s,
            "max_duration": restrictions.max_duration_s,
        }
    )


def _party(value: object, path: str) -> tuple[str, str]:
    country, _, party = str(value).partition("*")
    if not isinstance(value, str) or not country:
        _fail(path, 'must be a country or an operator, for example "NO" or "NO*OSL"')
    return country, party


def _place(value: object, path: str) -> PlaceKey:
    reader = _Reader(value, path)
    place = PlaceKey(
        reader.text("country_code", required=True),
        reader.text("party_id", required=True),
        reader.text("location_id", required=True),
        reader.text("evse_uid"),
        reader.text("connector_id"),
    )
    reader.end()
    return place


def _conditions(value: object, path: str) -> UsageConditions:
    if value is None:
        return UsageConditions()
    reader = _Reader(value, path)
    conditions = UsageConditions(
        any_of=tuple(
            restrictions_from_document(item, f"{reader.at('any_of')}[{index}]")
            for index, item in enumerate(reader.items("any_of"))
        ),
        selectors=Selectors(
            parties=tuple(
                _party(item, f"{reader.at('parties')}[{index}]")
                for index, item in enumerate(reader.items("parties"))
            ),
            locations=tuple(
                _place(item, f"{reader.at('locations')}[{index}]")
                for index, item in enumerate(reader.items("locations"))
            ),
            connector_standards=frozenset(str(s) for s in reader.items("connector_standards")),
            power_types=frozenset(reader.choices("power_types", PowerType)),
            min_connector_power_w=reader.scaled("min_connector_power_kw", 1000),
            max_connector_power_w=reader.scaled("max_connector_power_kw", 1000),
            vehicle_types=frozenset(reader.choices("vehicle_types", VehicleType)),
        ),
    )
    reader.end()
    return conditions


def _validity(value: object, path: str) -> Validity:
    reader = _Reader(value, path)
    start = reader.text("start")
    days, months = reader.integer("days"), reader.integer("months")
    # What is dropped on the way to the service cannot be refused there.
    if (days is None) == (months is None):
        _fail(path, "must have days or months, and not both")
    if 0 in (days, months):
        _fail(path, "must be at least one day or month long")
    if reader.has("first_use_within_days") and start != ValidityStart.FIRST_USE:
        _fail(reader.at("first_use_within_days"), "goes only with start: FIRST_USE")
    validity = Validity(
        days=days or 0,
        months=months or 0,
        start=_choice(start, ValidityStart, reader.at("start"))
        if start
        else ValidityStart.PURCHASE,
        start_time=instant_from_text(reader.take("start_time"), reader.at("start_time")),
        first_use_within_days=reader.integer("first_use_within_days") or FIRST_USE_WITHIN_DAYS,
    )
    reader.end()
    return validity


def _personal_limit(value: object, path: str) -> PersonalLimit | None:
    if value is None:
        return None
    reader = _Reader(value, path)
    limit = PersonalLimit(reader.integer("max_purchases") or 0, reader.integer("rolling_days") or 0)
    reader.end()
    return limit


def terms_from_document(value: object, path: str = "") -> Terms:
    """A product's terms from a document.

    Raises BadInput with the path of the first key that is missing, unknown or
    ill-typed. Bounds are judged by the service (`voucher_grpc.edge.wire.products`).
    """
    reader = _Reader(value, path)
    terms = Terms(
        product_id=reader.text("product_id", required=True),
        display_name=reader.text("display_name", required=True),
        description=reader.text("description"),
        price=money_from_text(reader.take("price", required=True), reader.at("price")),
        tax_rate_basis_points=reader.scaled("tax_rate_percent", 100) or 0,
        benefit=_benefit(reader.take("benefit", required=True), reader.at("benefit")),
        conditions=_conditions(reader.take("conditions"), reader.at("conditions")),
        validity=_validity(reader.take("validity", required=True), reader.at("validity")),
        time_zone=reader.text("time_zone", required=True),
        stock=reader.integer("stock"),
        personal_limit=_personal_limit(reader.take("personal_limit"), reader.at("personal_limit")),
        sale_start_time=instant_from_text(
            reader.take("sale_start_time"), reader.at("sale_start_time")
        ),
        sale_end_time=instant_from_text(reader.take("sale_end_time"), reader.at("sale_end_time")),
        default_offer=reader.boolean("default_offer"),
        withdrawal_days=reader.integer("withdrawal_days") or 0,
    )
    reader.end()
    return terms


def without_empty(document: Document) -> Document:
    return {
        key: value
        for key, value in document.items()
        if value is not None and value is not False and value not in ("", [], {})
    }


def _number(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _kilo(value: int | None) -> str | None:
    return None if value is None else _number(Decimal(value).scaleb(-3))


def _iso(value: date | datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def _benefit_document(benefit: Benefit) -> Document:
    match benefit:
        case EnergyBundle(energy_wh):
            return {"energy_bundle_kwh": _kilo(energy_wh)}
        case SessionBundle(sessions, max_energy_wh):
            document: Document = {"session_bundle": sessions}
            if max_energy_wh:
                document["max_energy_kwh_per_session"] = _kilo(max_energy_wh)
            return document
        case EnergyPrice(price_micros):
            return {"energy_price_per_kwh": f"{decimal_from_micros(price_micros):f}"}
        case PercentageOff(basis_points):
            return {"percentage_off": _number(Decimal(basis_points).scaleb(-2))}
        case FlatPeriod(energy_wh):
            return {"flat_fair_use_kwh": _kilo(energy_wh)}


def _place_document(place: PlaceKey) -> Document:
    return without_empty(
        {
            "country_code": place.country_code,
            "party_id": place.party_id,
            "location_id": place.location_id,
            "evse_uid": place.evse_uid,
            "connector_id": place.connector_id,
        }
    )


def _conditions_document(conditions: UsageConditions) -> Document:
    selectors = conditions.selectors
    return without_empty(
        {
            "any_of": [restrictions_to_document(r) for r in conditions.any_of],
            "parties": [
                f"{country}*{party}" if party else country for country, party in selectors.parties
            ],
            "locations": [_place_document(place) for place in selectors.locations],
            "connector_standards": sorted(selectors.connector_standards),
            "power_types": sorted(p.value for p in selectors.power_types),
            "min_connector_power_kw": _kilo(selectors.min_connector_power_w),
            "max_connector_power_kw": _kilo(selectors.max_connector_power_w),
            "vehicle_types": sorted(v.value for v in selectors.vehicle_types),
        }
    )


def _validity_document(validity: Validity) -> Document:
    first_use = validity.start is ValidityStart.FIRST_USE
    return without_empty(
        {
            "days": validity.days or None,
            "months": validity.months or None,
            "start": None if validity.start is ValidityStart.PURCHASE else validity.start.value,
            "start_time": _iso(validity.start_time),
            "first_use_within_days": validity.first_use_within_days if first_use else None,
        }
    )


def terms_to_document(terms: Terms) -> Document:
    """The document of a product's terms; `terms_from_document` reads it back unchanged."""
    limit = terms.personal_limit
    document = without_empty(
        {
            "product_id": terms.product_id,
            "display_name": terms.display_name,
            "description": terms.description,
            "price": str(terms.price),
            "tax_rate_percent": (
                _number(Decimal(terms.tax_rate_basis_points).scaleb(-2))
                if terms.tax_rate_basis_points
                else None
            ),
            "benefit": _benefit_document(terms.benefit),
            "conditions": _conditions_document(terms.conditions),
            "validity": _validity_document(terms.validity),
            "time_zone": terms.time_zone,
            "personal_limit": limit
            and without_empty(
                {"max_purchases": limit.max_purchases, "rolling_days": limit.rolling_days or None}
            ),
            "sale_start_time": _iso(terms.sale_start_time),
            "sale_end_time": _iso(terms.sale_end_time),
            "default_offer": terms.default_offer,
            "withdrawal_days": terms.withdrawal_days or None,
        }
    )
    if terms.stock is not None:  # a stock of 0 is something else than none
        document["stock"] = terms.stock
    return document
