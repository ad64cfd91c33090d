"""Charges at stations between messages and the domain."""

from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID

from voucher_grpc.domain.pricing.charge import (
    MAX_CHARGE,
    SECONDS_PER_HOUR,
    UNKNOWN,
    Bounds,
    Period,
    Quantity,
    with_mean_power,
)
from voucher_grpc.domain.redemption.authorize import Authorized
from voucher_grpc.domain.redemption.capture import charge_not_found
from voucher_grpc.domain.redemption.charge import CdrKey, Charge, PassUse, Requested
from voucher_grpc.domain.redemption.token import TokenKey
from voucher_grpc.edge.wire.checks import MAX_OCPI_ID_CHARS, Checks, enum_number
from voucher_grpc.edge.wire.conditions import MAX_ENERGY_WH
from voucher_grpc.edge.wire.messages import money_message, timestamp
from voucher_grpc.edge.wire.tokens import token_key_from_message
from voucher_grpc.money import MICROS, Money
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.v1 import location_service_pb2
from voucher_grpc.v1 import redemption_service_pb2 as pb

MAX_CDR_ID_CHARS = 39
MAX_PERIODS = 1_000
MAX_DURATION_S = int(MAX_CHARGE / timedelta(seconds=1))
_MAX_VOLUME_MICROS = 100_000_000_000
_MAX_COST_MICROS = 1_000_000_000_000
# A vehicle may stand for a day before it is asked for; stations' clocks are minutes off.
_MAX_BEFORE, _MAX_AFTER = timedelta(days=1), timedelta(minutes=5)
_ALLOWED = pb.AllowedType.DESCRIPTOR
_CONDITION = pb.PassCondition.DESCRIPTOR
_STATUS = pb.ChargeStatus.DESCRIPTOR
_TYPE = pb.ChargeDimensionType.DESCRIPTOR

_ENERGY, _HOURS = Fraction(1, 1_000), Fraction(SECONDS_PER_HOUR, MICROS)
# By the OCPI dimension the quantity, and the Wh or seconds that a millionth of its unit is.
_BILLED = {
    pb.CHARGE_DIMENSION_TYPE_ENERGY: (Quantity.ENERGY, _ENERGY),
    pb.CHARGE_DIMENSION_TYPE_TIME: (Quantity.TIME, _HOURS),
    pb.CHARGE_DIMENSION_TYPE_PARKING_TIME: (Quantity.PARKING_TIME, _HOURS),
    pb.CHARGE_DIMENSION_TYPE_RESERVATION_TIME: (Quantity.RESERVATION_TIME, _HOURS),
}
_MICROS_PER_MILLI = Fraction(1, 1_000)


class ChargeUser(NamedTuple):
    """Whose charge it is: by name, by a token, or by both."""

    user_id: str
    token: TokenKey | None


def who_from_message(checks: Checks, message: Any) -> ChargeUser:
    """Whom a station names."""
    token = None
    if message.HasField("token"):
        token = token_key_from_message(checks, "token", message.token)
    return ChargeUser(checks.identifier("user_id", message.user_id, required=token is None), token)


def place_from_message(checks: Checks, message: Any) -> PlaceKey:
    """The place of a charge, down to what is known of it."""

    def ocpi_id(field: str, *, required: bool = False) -> str:
        value = getattr(message, field)
        return checks.identifier(field, value, required=required, max_chars=MAX_OCPI_ID_CHARS)

    if message.connector_id and not message.evse_uid:
        checks.wrong("evse_uid", "is missing: a connector_id needs it")
    return PlaceKey(
        *party_from_message(checks, message),
        ocpi_id("location_id", required=True),
        ocpi_id("evse_uid"),
        ocpi_id("connector_id"),
    )


def party_from_message(checks: Checks, message: Any) -> tuple[str, str]:
    """(country_code, party_id) of the operator."""
    return (
        checks.country("country_code", message.country_code, required=True),
        checks.party("party_id", message.party_id, required=True),
    )


def requested_from_message(checks: Checks, message: pb.AuthorizeChargeRequest) -> Requested:
    """How much a station asks for."""
    return Requested(
        checks.number("energy_wh", message.energy_wh, 0, MAX_ENERGY_WH),
        checks.number("duration_s", message.duration_s, 0, MAX_DURATION_S),
        checks.number("cost_micros", message.cost_micros, 0, _MAX_COST_MICROS),
    )


def start_from_message(
    checks: Checks, message: pb.AuthorizeChargeRequest, now: datetime
) -> datetime | None:
    """Since when the vehicle is plugged in; None: now."""
    start = checks.optional_instant(message, "start_time", "")
    if start is not None and not now - _MAX_BEFORE <= start <= now + _MAX_AFTER:
        checks.wrong("start_time", "must be at most a day before and 5 minutes after now")
    return start


def reference_from_message(checks: Checks, message: Any, *, required: bool) -> str:
    """An authorization_reference as it was sent."""
    field = "authorization_reference"
    return checks.identifier(
        field, message.authorization_reference, required=required, max_chars=36
    )


def charge_uuid(reference: str) -> UUID:
    """The charge that a reference names; raises CHARGE_NOT_FOUND for any other text."""
    try:
        return UUID(reference)
    except ValueError:
        raise charge_not_found() from None


def pass_uuid(checks: Checks, field: str, value: str) -> UUID | None:
    """A named pass; None if none is. Any other text is no name of a pass."""
    return checks.uuid(field, value) if value else None


def cdr_key_from_message(checks: Checks, message: pb.ReverseCaptureRequest) -> CdrKey:
    """A CDR."""
    cdr_id = checks.identifier("cdr_id", message.cdr_id, required=True, max_chars=MAX_CDR_ID_CHARS)
    return CdrKey(*party_from_message(checks, message), cdr_id)


def span_from_message(
    checks: Checks, message: pb.CaptureChargeRequest, now: datetime
) -> tuple[datetime, datetime]:
    """(start, end) of a charge."""
    start = checks.instant("start_time", message.start_time)
    end = checks.instant("end_time", message.end_time)
    for field in ("start_time", "end_time"):
        if not message.HasField(field):
            checks.wrong(field, "is missing")
            return start, end
    if end <= start:
        checks.wrong("end_time", "must be after start_time")
    elif end - start > MAX_CHARGE:
        checks.wrong("end_time", f"must be at most {MAX_CHARGE.days} days after start_time")
    elif end > now + _MAX_AFTER:
        checks.wrong("end_time", "must be at most 5 minutes after now")
    return start, end


def periods_from_message(
    checks: Checks, message: pb.CaptureChargeRequest, start: datetime, end: datetime
) -> tuple[Period, ...]:
    """The periods of a charge, side by side from its start to its end."""
    stated = message.charging_periods
    if not 1 <= len(stated) <= MAX_PERIODS:
        checks.wrong("charging_periods", f"must be 1 to {MAX_PERIODS}, are {len(stated)}")
        return ()
    starts = [
        checks.instant(f"charging_periods[{n}].start_time", one.start_time)
        for n, one in enumerate(stated)
    ]
    if starts[0] != start:
        checks.wrong("charging_periods[0].start_time", "must be the charge's start_time")
    for number, (begin, until) in enumerate(zip(starts, (*starts[1:], end), strict=True)):
        if until <= begin:
            last = number + 1 == len(starts)
            field = "end_time" if last else f"charging_periods[{number + 1}].start_time"
            checks.wrong(field, "must be after the start of the period before it")
            return ()
    periods, energy_wh = [], Fraction(0)
    for number, (one, begin, until) in enumerate(
        zip(stated, starts, (*starts[1:], end), strict=True)
    ):
        field = f"charging_periods[{number}].dimensions"
        volumes, power, current = _dimensions(checks, field, one)
        length_s = _seconds(until - begin)
        periods.append(
            Period(
                start=begin,
                elapsed_s=_seconds(begin - starts[0]),
                energy_before_wh=energy_wh,
                volumes=volumes,
                power=power,
                current=current,
                length_s=length_s,
            )
        )
        energy_wh += volumes.get(Quantity.ENERGY, Fraction(0))
    if energy_wh > MAX_ENERGY_WH:
        checks.wrong("charging_periods", f"must have at most {MAX_ENERGY_WH // 1_000} kWh in all")
    return with_mean_power(periods)


def _seconds(length: timedelta) -> Fraction:
    return Fraction(length // timedelta(microseconds=1), MICROS)


def _dimensions(
    checks: Checks, field: str, message: pb.ChargingPeriod
) -> tuple[dict[Quantity, Fraction], Bounds, Bounds]:
    """(volumes, power in W, current in mA) of a period."""
    found: dict[int, int] = {}
    for number, one in enumerate(message.dimensions):
        if one.type not in _TYPE.values_by_number or not one.type:
            checks.wrong(f"{field}[{number}].type", f"must be a known value, is {one.type}")
        elif one.type in found:
            checks.wrong(f"{field}[{number}].type", "must stand once in a period")
        volume = checks.number(
            f"{field}[{number}].volume_micros", one.volume_micros, 0, _MAX_VOLUME_MICROS
        )
        found[one.type] = volume
    volumes = {
        quantity: found[kind] * unit
        for kind, (quantity, unit) in _BILLED.items()
        if found.get(kind)
    }
    power = _bounds(found, pb.CHARGE_DIMENSION_TYPE_MIN_POWER, pb.CHARGE_DIMENSION_TYPE_MAX_POWER)
    current = _bounds(
        found, pb.CHARGE_DIMENSION_TYPE_MIN_CURRENT, pb.CHARGE_DIMENSION_TYPE_MAX_CURRENT
    )
    return volumes, power, current


def _bounds(found: dict[int, int], least: int, greatest: int) -> Bounds:
    """kW as W, A as mA; one that is not stated is the other."""
    low, high = found.get(least), found.get(greatest)
    if low is None and high is None:
        return UNKNOWN
    values = (high if low is None else low, low if high is None else high)
    return Bounds(*(None if v is None else v * _MICROS_PER_MILLI for v in values))


def operator_cost_from_message(checks: Checks, message: pb.CaptureChargeRequest) -> Money | None:
    """What the CDR states."""
    if not message.HasField("operator_cost"):
        return None
    return checks.money("operator_cost", message.operator_cost)


def authorized_message(answer: Authorized) -> pb.AuthorizeChargeResponse:
    """The answer with the limits that the station must enforce."""
    message = pb.AuthorizeChargeResponse(
        allowed=enum_number(_ALLOWED, answer.allowed),  # type: ignore[arg-type]
        condition=enum_number(_CONDITION, answer.condition),  # type: ignore[arg-type]
        evse_uids=answer.evse_uids,
    )
    charge = answer.charge
    if charge is None:
        return message
    message.authorization_reference = str(charge.charge_id)
    message.tariff_id, message.currency_code = charge.tariff.tariff_id, charge.tariff.currency_code
    message.passes.extend(_reserved(use) for use in charge.uses)
    if charge.expire_time is not None:
        message.expire_time.CopyFrom(timestamp(charge.expire_time))
    energy_wh = charge.requested.energy_wh
    reserved_wh = sum(use.reserved_energy_wh for use in charge.uses)
    if not charge.pay_as_you_go and all(use.of_balance for use in charge.uses):
        energy_wh = min(energy_wh, reserved_wh) if energy_wh else reserved_wh
    if energy_wh:
        message.max_energy_wh = energy_wh
    if charge.requested.duration_s:
        message.max_duration_s = charge.requested.duration_s
    if charge.requested.cost_micros:
        message.max_cost_micros = charge.requested.cost_micros
    return message


def _reserved(use: PassUse) -> pb.ReservedPass:
    message = pb.ReservedPass(pass_id=str(use.pass_id))
    if use.of_balance:
        message.energy_wh = use.reserved_energy_wh
    if use.reserved_sessions:
        message.sessions = use.reserved_sessions
    return message


def charge_message(charge: Charge) -> pb.Charge:
    """A charge with its bill."""
    place, bill = charge.place, charge.bill
    message = pb.Charge(
        user_id=charge.user_id,
        authorization_reference=str(charge.charge_id),
        status=enum_number(_STATUS, charge.status),  # type: ignore[arg-type]
        country_code=place.country_code,
        party_id=place.party_id,
        location_id=place.location_id,
        evse_uid=place.evse_uid,
        connector_id=place.connector_id,
        session_id=charge.session_id,
        cdr_id=charge.cdr_id,
        authorize_time=timestamp(charge.authorize_time),
        passes=[_charged(use) for use in charge.uses],
        tariff_id=charge.tariff.tariff_id,
        currency_code=charge.tariff.currency_code,
    )
    if charge.expire_time is not None:
        message.expire_time.CopyFrom(timestamp(charge.expire_time))
    if bill is None:
        return message
    message.start_time.CopyFrom(timestamp(bill.start_time))
    message.end_time.CopyFrom(timestamp(bill.end_time))
    message.energy_wh = bill.energy_wh
    message.total_cost.CopyFrom(_cost(bill.total))
    message.pay_as_you_go_cost.CopyFrom(_cost(bill.pay_as_you_go))
    if bill.operator_cost is not None:
        message.operator_cost.CopyFrom(money_message(bill.operator_cost))
        if bill.operator_cost.currency_code == charge.tariff.currency_code:
            difference = bill.operator_cost.micros - bill.pay_as_you_go[1]
            message.operator_difference_micros = difference
    message.remarks.extend(
        location_service_pb2.CostRemark(code=code, text=text) for code, text in bill.remarks
    )
    return message


def _charged(use: PassUse) -> pb.ChargedPass:
    return pb.ChargedPass(
        pass_id=str(use.pass_id),
        energy_wh=use.energy_wh,
        sessions=use.sessions,
        saved_micros=use.saved_micros,
        reserved_energy_wh=use.reserved_energy_wh,
        reserved_sessions=use.reserved_sessions,
    )


def _cost(amounts: tuple[int, int]) -> location_service_pb2.CostAmount:
    before, after = amounts
    return location_service_pb2.CostAmount(before_tax_micros=before, after_tax_micros=after)
