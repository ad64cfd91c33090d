"""Messages and the domain say the same, both ways, and their lists agree."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2 as details
from google.type.dayofweek_pb2 import DayOfWeek
from google.type.money_pb2 import Money as MoneyMessage
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import SPEC
from tests.unit.terms_strategy import all_terms, instants, restrictions
from tests.unit.test_document import tariffs
from voucher_grpc.currencies import payable_unit_micros
from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.catalogue.product import ProductState, Terms, ValidityStart
from voucher_grpc.domain.offers.choices import EmptyReason
from voucher_grpc.domain.offers.knowledge import ProfileType
from voucher_grpc.domain.offers.reason_codes import ReasonCode
from voucher_grpc.domain.passes.state import PassState
from voucher_grpc.domain.pricing.tariff import Dimension, Tariff
from voucher_grpc.edge.wire.checks import (
    EARLIEST,
    LATEST,
    Checks,
    enum_number,
    enum_prefix,
)
from voucher_grpc.edge.wire.conditions import restrictions_from_message, restrictions_message
from voucher_grpc.edge.wire.messages import instant_of, timestamp
from voucher_grpc.edge.wire.paging import page_token, read_page_token
from voucher_grpc.edge.wire.products import terms_from_message, terms_message
from voucher_grpc.edge.wire.status import CODES, DOMAIN, status_of
from voucher_grpc.edge.wire.tariffs import tariff_from_message, tariff_message
from voucher_grpc.errors import BadInput, FieldViolation, Reason, Refusal, StoreUnavailable
from voucher_grpc.money import Money
from voucher_grpc.ocpi import DAYS, PowerType, VehicleType
from voucher_grpc.steps import finished
from voucher_grpc.v1 import (
    conditions_pb2,
    errors_pb2,
    location_service_pb2,
    offer_pb2,
    pass_pb2,
    product_pb2,
    tendency_service_pb2,
    voucher_service_pb2,
)


@pytest.mark.parametrize(
    ("message", "domain"),
    [
        (errors_pb2.ErrorReason, Reason),
        (offer_pb2.OfferReasonCode, ReasonCode),
        (voucher_service_pb2.EmptyReason, EmptyReason),
        (product_pb2.ProductState, ProductState),
        (product_pb2.ValidityStart, ValidityStart),
        (pass_pb2.PassState, PassState),
        (conditions_pb2.PowerType, PowerType),
        (conditions_pb2.VehicleType, VehicleType),
        (location_service_pb2.PriceDimension, Dimension),
        (tendency_service_pb2.ProfileType, ProfileType),
    ],
)
def test_an_enum_of_the_protos_is_the_enum_of_the_domain(
    message: Any, domain: type[StrEnum]
) -> None:
    """The same names after the prefix, and the numbers go both ways."""
    descriptor = message.DESCRIPTOR
    prefix = enum_prefix(descriptor)
    names = {value.name.removeprefix(prefix) for value in descriptor.values}
    assert {"UNSPECIFIED", *domain} == names
    checks = Checks()
    assert list(domain) == [
        checks.choice("f", enum_number(descriptor, value), descriptor, domain) for value in domain
    ]
    assert checks.choice("f", 0, descriptor, domain) is None
    assert [] == checks.violations


def test_the_days_of_the_domain_are_those_of_google() -> None:
    """From MONDAY = 1."""
    assert list(DAYS) == [DayOfWeek.Name(number) for number in range(1, 8)]


def test_every_reason_has_a_status_code() -> None:
    """Never OK nor UNKNOWN; what may be retried says so."""
    assert set(Reason) == set(CODES)
    assert not {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN} & set(CODES.values())
    unavailable = {reason for reason, code in CODES.items() if code is grpc.StatusCode.UNAVAILABLE}
    assert {Reason.STORE_UNAVAILABLE, Reason.SHUTTING_DOWN} == unavailable


@SPEC
@given(all_terms())
def test_a_product_is_read_back_unchanged(terms: Terms) -> None:
    """Terms to message to terms, with nothing to object to."""
    checks = Checks()
    message = product_pb2.Product.FromString(terms_message(terms).SerializeToString())
    assert terms == terms_from_message(checks, "product", message, payable_unit_micros)
    assert [] == checks.violations


@SPEC
@given(restrictions())
def test_restrictions_are_read_back_unchanged(r: Restrictions) -> None:
    """A bound of 0 is a bound."""
    checks = Checks()
    assert r == restrictions_from_message(checks, "r", restrictions_message(r))
    assert [] == checks.violations


@SPEC
@given(tariffs)
def test_a_tariff_is_read_back_unchanged(tariff: Tariff) -> None:
    """As long as its bounds are in order."""
    message = tariff_message(tariff)
    for name in ("micros", "after_tax_micros"):
        if getattr(message, f"min_price_{name}") > getattr(message, f"max_price_{name}"):
            tariff = replace(tariff, min_price=None)
    checks = Checks()
    assert tariff == finished(tariff_from_message(checks, "tariff", tariff_message(tariff)))
    assert [] == checks.violations


@SPEC
@given(instants)
def test_an_instant_is_read_back_unchanged(at: datetime) -> None:
    """To the microsecond."""
    checks = Checks()
    assert at == instant_of(timestamp(at)) == checks.instant("f", timestamp(at))
    assert [] == checks.violations


def violations(check: Any) -> list[str]:
    """The fields that a check objects to."""
    checks = Checks()
    check(checks)
    return [violation.field for violation in checks.violations]


@pytest.mark.parametrize(("value", "good"), [(1, False), (2, True), (5, True), (6, False)])
def test_both_bounds_of_a_number_are_inclusive(value: int, good: bool) -> None:
    """low <= value <= high."""
    assert good == (violations(lambda c: c.number("f", value, 2, 5)) == [])


@pytest.mark.parametrize(
    ("seconds", "nanos", "good"),
    [
        (0, 0, True),
        (-1, 0, False),
        (int(LATEST.timestamp()) - 1, 999_999_999, True),
        (int(LATEST.timestamp()), 0, False),
        (0, -1, False),
        (0, 10**9, False),
        (2**63 - 1, 0, False),
        (-(2**63), 0, False),
    ],
)
def test_an_instant_is_from_1970_to_2099(seconds: int, nanos: int, good: bool) -> None:
    """Whatever the message can hold."""
    message = Timestamp(seconds=seconds, nanos=nanos)
    found = Checks().instant("f", message)
    assert EARLIEST <= found < LATEST
    assert good == (violations(lambda c: c.instant("f", message)) == [])


@pytest.mark.parametrize(
    ("units", "nanos", "micros"),
    [
        (49, 0, 49_000_000),
        (0, 1_000, 1),
        (1_000_000, 0, 10**12),
        (1_000_000, 1_000, None),
        (0, 999, None),
        (-1, 0, None),
        (1, -1_000, None),
        (0, 10**9, None),
        (2**63 - 1, 0, None),
        (-(2**63), 0, None),
    ],
)
def test_money_is_exact_to_a_micro_unit_and_bounded(
    units: int, nanos: int, micros: int | None
) -> None:
    """Zero to a million; never negative."""
    message = MoneyMessage(currency_code="NOK", units=units, nanos=nanos)
    checks = Checks()
    found = checks.money("f", message)
    expected = Money(micros or 0, "NOK")
    assert (expected, micros is not None) == (found, not checks.violations)


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("x" * 64, True),
        ("x" * 65, False),
        ("!~", True),
        ("", True),
        (" ", False),
        ("a\n", False),
        ("\x7f", False),
        ("é", False),
        ("\0", False),
    ],
)
def test_an_identifier_is_visible_ascii(value: str, good: bool) -> None:
    """Without spaces, line ends or control characters, at most 64."""
    assert good == (violations(lambda c: c.identifier("f", value)) == [])


def test_a_required_identifier_is_missing_when_empty() -> None:
    """And says so."""
    assert ["f"] == violations(lambda c: c.identifier("f", "", required=True))
    assert ["f"] == violations(lambda c: c.product_id("f", ""))
    assert ["f"] == violations(lambda c: c.uuid("f", ""))
    assert ["f"] == violations(lambda c: c.time_zone("f", "", required=True))


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("123e4567-e89b-12d3-a456-426614174000", True),
        ("123E4567-E89B-12D3-A456-426614174000", True),
        ("123e4567e89b12d3a456426614174000", False),
        ("{123e4567-e89b-12d3-a456-426614174000}", False),
        ("123e4567-e89b-12d3-a456-42661417400g", False),
        ("123e4567-e89b-12d3-a456-426614174000\n", False),
    ],
)
def test_a_uuid_has_hyphens(value: str, good: bool) -> None:
    """One form, in either case."""
    assert good == (violations(lambda c: c.uuid("f", value)) == [])


@pytest.mark.parametrize(
    "zone", ["Oslo", "../UTC", "/etc/localtime", "europe/oslo", "UTC+1", "a\0"]
)
def test_a_zone_is_a_name_of_the_database_and_never_a_path(zone: str) -> None:
    """What is not listed is not looked for."""
    assert ["f"] == violations(lambda c: c.time_zone("f", zone))


scopes = st.lists(st.text(max_size=10), min_size=1, max_size=3)
parts = st.lists(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=64), min_size=1, max_size=3
)


@SPEC
@given(scopes, parts, scopes)
def test_a_page_token_is_good_for_its_own_parameters_only(
    scope: list[str], last: list[str], other: list[str]
) -> None:
    """And gives back what it stands for."""
    token = page_token(scope, last)
    assert last == read_page_token(token, scope, len(last))
    for wrong_scope, count in ((other, len(last)), (scope, len(last) + 1)):
        if (wrong_scope, count) != (scope, len(last)):
            with pytest.raises(BadInput) as refused:
                read_page_token(token, wrong_scope, count)
            assert Reason.INVALID_PAGE_TOKEN is refused.value.reason


@SPEC
@given(st.text(min_size=1, max_size=100))
def test_any_text_is_a_page_token_or_refused(token: str) -> None:
    """Never an error of another kind; no token is the first page."""
    with pytest.raises(BadInput):
        read_page_token(token, ("List",), 1)
    assert read_page_token("", ("List",), 1) is None


def test_a_status_has_its_details() -> None:
    """ErrorInfo always; RetryInfo and BadRequest where they apply, bounded."""
    many = BadInput([FieldViolation(f"f{n}", "is wrong") for n in range(1000)])
    info, bad = details.ErrorInfo(), details.BadRequest()
    status = status_of(many)
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (DOMAIN, "INVALID_FIELD", 50) == (info.domain, info.reason, len(bad.field_violations))
    assert "f0: is wrong (and 999 more)" == status.message
    retry = details.RetryInfo()
    assert status_of(StoreUnavailable()).details[1].Unpack(retry)
    assert timedelta(seconds=1) == retry.retry_delay.ToTimedelta()
    assert 1 == len(status_of(Refusal(Reason.SOLD_OUT, "sold out")).details)


def test_an_instant_before_1970_can_still_be_told() -> None:
    """What the service sends is not bounded by what it takes."""
    assert Timestamp(seconds=-1, nanos=500_000_000) == timestamp(
        datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
    )
