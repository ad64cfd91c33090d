"""Each field that is missing or out of bounds is named, before anything is read or written."""

import base64
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from tests.conftest import OFFER_KEYS, Service
from tests.integration import requests
from tests.integration.operating import PATIENCE_S
from tests.integration.requests import METHODS, good_request
from voucher_grpc.client import CallFailed, call_failed
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.edge.wire.paging import page_token
from voucher_grpc.v1 import conditions_pb2 as conditions_pb
from voucher_grpc.v1 import event_service_pb2 as event_pb
from voucher_grpc.v1 import voucher_service_pb2 as voucher_pb

LONG = "x" * 65
STUBS = {
    "Catalogue": "catalogue",
    "Redemption": "redemption",
    "Event": "event",
    "Location": "location",
    "Tendency": "tendency",
    "User": "user",
    "Voucher": "voucher",
}


async def refused(service: Service, name: str, request: Any) -> CallFailed:
    """The refusal of a call that must fail."""
    stub = STUBS[METHODS[name].path.split(".")[2].split("Service")[0]]
    method = getattr(getattr(service.client, stub), name)
    sent = iter([request]) if METHODS[name].client_stream else request
    if METHODS[name].server_stream:
        called = first_answer(method(sent, timeout=PATIENCE_S))
    else:
        called = service.client.call(method, sent)
    with pytest.raises(CallFailed) as failed:
        await called
    return failed.value


async def first_answer(call: Any) -> Any:
    """What a stream begins with. Raises CallFailed."""
    try:
        return await call.read()
    except grpc.RpcError as error:
        raise call_failed(error) from error


def put(request: Any, path: str, value: Any) -> None:
    """Set, clear (None) or extend a field by its dotted path; digits index lists."""
    *way, last = path.split(".")
    holder = reduce(lambda m, p: m[int(p)] if p.isdigit() else getattr(m, p), way, request)
    if value is None:
        holder.ClearField(last)
    elif last.isdigit():
        holder[int(last)] = value
    elif isinstance(value, list):
        del getattr(holder, last)[:]
        getattr(holder, last).extend(value)
    elif hasattr(value, "DESCRIPTOR"):
        getattr(holder, last).CopyFrom(value)
    else:
        setattr(holder, last, value)


def money(units: int = 0, nanos: int = 0, currency_code: str = "NOK") -> Money:
    return Money(units=units, nanos=nanos, currency_code=currency_code)


def at(text: str) -> Any:
    return timestamp(datetime.fromisoformat(text).replace(tzinfo=UTC))


USER_IDS = [("user_id", bad) for bad in ("", LONG, "a b", "a\0", "é")]
PAGES = [("page_size", bad) for bad in (-1, 1001)]
PLACES = [
    *(("country_code", bad) for bad in ("", "no", "NOR", "N\0")),
    *(("party_id", bad) for bad in ("", "OS", "osl", "OSLO")),
]


def tokens(path: str) -> list[tuple[str, Any]]:
    """What is wrong with the name of a token."""
    return [
        *((f"{path}.{field}", bad) for field, bad in PLACES),
        *((f"{path}.type", bad) for bad in (0, 99)),
        *((f"{path}.uid", bad) for bad in ("", "x" * 37, "é")),
    ]


R = "product.conditions.any_of.0"
S = "product.conditions.selectors"
PRODUCT: list[tuple[str, Any]] = [
    *(("product.product_id", bad) for bad in ("", LONG, "a b", "a/b", "é", "a\0")),
    *(("product.display_name", bad) for bad in ("", " \n", "x" * 101, "a\0", "\x1b[2J")),
    *(("product.description", bad) for bad in ("x" * 1001, "a\0b")),
    ("product.price", None),
    ("product.price", money(-1)),
    ("product.price", money(0, -10_000_000)),
    ("product.price", money(1_000_001)),
    ("product.price", money(49, 5_000_000)),  # half an øre
    ("product.price.nanos", 1),
    ("product.price.nanos", 2_000_000_000),
    *(("product.price.currency_code", bad) for bad in ("", "nok", "NO", "ZZZ")),
    *(("product.tax_rate_basis_points", bad) for bad in (-1, 10_001)),
    ("product.benefit", None),
    ("product.benefit.energy_price.price_per_kwh", money(10_001)),
    ("product.benefit.energy_price.price_per_kwh", money(-1)),
    ("product.benefit.energy_price.price_per_kwh.currency_code", "SEK"),
    *(("product.benefit.energy_bundle.energy_wh", bad) for bad in (0, -1, 100_000_001, 2**63 - 1)),
    *(("product.benefit.session_bundle.sessions", bad) for bad in (0, -1, 10_001)),
    *(("product.benefit.percentage_off.basis_points", bad) for bad in (0, 10_001)),
    *(("product.benefit.flat_period.fair_use_energy_wh", bad) for bad in (0, 100_000_001)),
    ("product.validity", None),
    *(("product.validity.days", bad) for bad in (0, -1, 3_661)),
    *(("product.validity.months", bad) for bad in (0, -1, 121)),
    ("product.validity.start", 99),
    ("product.validity.start_time", at("2026-01-01T00:00")),
    ("product.validity.first_use_within_days", 1),
    *(("product.time_zone", bad) for bad in ("", "Mars/Olympus", "../UTC", "europe/oslo", "a\0")),
    *(("product.stock", bad) for bad in (-1, 1_000_000_001)),
    *(("product.withdrawal.days", bad) for bad in (-1, 367)),
    *(("product.personal_limit.max_purchases", bad) for bad in (0, -1, 1_001)),
    *(("product.personal_limit.rolling_days", bad) for bad in (-1, 3_661)),
    ("product.sale_end_time", at("2026-01-01T00:00")),  # its start
    ("product.sale_end_time", at("2100-01-01T00:00")),
    ("product.sale_start_time.nanos", 10**9),
    *((f"{R}.start_time", bad) for bad in ("24:00", "9:00", "09:60", "0:012", "012:5", "noon")),
    *((f"{R}.end_time", bad) for bad in ("24:00", "22:00", "22:00:00", "\uff12\uff12:00")),
    *((f"{R}.start_date", bad) for bad in ("2026-02-30", "2026-1-1", "2026-W01-1", "20260101")),
    *((f"{R}.end_date", bad) for bad in ("2026-01-01", "2025-12-31", "later")),
    *((f"{R}.day_of_week", bad) for bad in ([0], [8], [1, 1], [-1])),
    *((f"{R}.{low}", bad) for low in ("min_energy_wh", "min_power_w") for bad in (-1, 2**62)),
    *((f"{R}.{low}", bad) for low in ("min_current_ma", "min_duration_s") for bad in (-1, 2**62)),
    *((f"{R}.{high}", bad) for high in ("max_energy_wh", "max_power_w") for bad in (0, 1, 2**62)),
    *((f"{R}.{high}", bad) for high in ("max_current_ma", "max_duration_s") for bad in (0, 1)),
    ("product.conditions.any_of", [conditions_pb.Restrictions()] * 21),
    (f"{S}.parties", [conditions_pb.Party(country_code="NO")] * 51),
    *((f"{S}.parties.0.country_code", bad) for bad in ("", "no")),
    (f"{S}.parties.0.party_id", "OSLO"),
    *((f"{S}.locations.0.{f}", bad) for f, bad in PLACES),
    (f"{S}.locations.0.location_id", ""),
    (f"{S}.locations.0.location_id", "x" * 37),
    (f"{S}.locations.0.evse_uid", "x" * 37),
    *((f"{S}.connector_standards", bad) for bad in (["MCS"] * 51,)),
    (f"{S}.power_types", [5] * 6),
    (f"{S}.vehicle_types", [1] * 11),
    *((f"{S}.min_connector_power_w", bad) for bad in (-1, 2**62)),
    *((f"{S}.max_connector_power_w", bad) for bad in (0, 999)),
]
PROFILE = [
    ("type", 99),
    ("type", -1),
    ("connector_standards", ["MCS"] * 11),
    *((f, bad) for f in ("max_ac_power_w", "max_dc_power_w") for bad in (-1, 10_000_001)),
    *(("battery_capacity_wh", bad) for bad in (-1, 100_000_001)),
]
REQUEST_OFFERS: list[tuple[str, Any]] = [
    *USER_IDS,  # without a vehicle_id
    ("vehicle_id", LONG),
    *((f"vehicle.{f}", bad) for f, bad in PROFILE),
    ("place.area.country_code", "no"),
    *((f"place.location.{f}", bad) for f, bad in PLACES),
    *(("max_offers", bad) for bad in (-1, 21)),
    ("language", "x" * 36),
    *(("currency_code", bad) for bad in ("nok", "NO")),
]
CASES: dict[str, list[tuple[str, Any]]] = {
    "CreateProduct": [("product.product_id", ""), *PRODUCT],
    "UpdateProduct": [
        *PRODUCT[::7],
        *(("product.etag", bad) for bad in ("", LONG, "a b")),
    ],
    "GetProduct": [
        *(("product_id", bad) for bad in ("", LONG, "a\0")),
        ("revision", -1),
    ],
    "ListProducts": PAGES,
    "RetireProduct": [
        *(("product_id", bad) for bad in ("", LONG)),
        *(("etag", bad) for bad in ("", LONG, "é")),
    ],
    "UpsertLocations": [("locations", []), ("locations", [requests.location()] * 501)],
    "UpsertTariffs": [("tariffs", []), ("tariffs", [requests.tariff()] * 501)],
    "GetLocation": [*PLACES, *(("location_id", bad) for bad in ("", "x" * 37, "é"))],
    "ListLocations": [*PAGES, ("country_code", "no"), ("party_id", "OSLO"), ("country_code", "")],
    "GetTariff": [*PLACES, *(("tariff_id", bad) for bad in ("", "x" * 37, "é"))],
    "ListTariffs": [*PAGES, ("country_code", "no"), ("party_id", "OSLO"), ("country_code", "")],
    "PriceCharge": [
        *PLACES,
        *(("location_id", bad) for bad in ("", "x" * 37, "é")),
        *((f, "x" * 37) for f in ("evse_uid", "tariff_id")),
        *((f, None) for f in ("start_time", "end_time")),
        ("end_time", timestamp(datetime(2026, 6, 2, 18, tzinfo=UTC))),
        ("end_time", timestamp(datetime(2026, 9, 3, tzinfo=UTC))),
        *((f, bad) for f in ("energy_wh", "power_w") for bad in (-1, 10**9)),
        ("currency_code", "nok"),
        ("profile", 99),
    ],
    "AuthorizeCharge": [
        *PLACES,
        *USER_IDS,
        *(("location_id", bad) for bad in ("", "x" * 37, "é")),
        *(("request_id", bad) for bad in ("", "7")),
        ("pass_id", "7"),
        ("evse_uid", "x" * 37),
        *((f, bad) for f in ("energy_wh", "duration_s", "cost_micros") for bad in (-1, 2**62)),
        *(("start_time", timestamp(datetime(year, 6, 2, tzinfo=UTC))) for year in (2020, 2090)),
    ],
    "CaptureCharge": [
        *PLACES,
        *USER_IDS,
        *(("location_id", bad) for bad in ("", "x" * 37, "é")),
        *(("session_id", bad) for bad in ("", "x" * 37, "é")),
        *(("cdr_id", bad) for bad in ("", "x" * 40, "é")),
        ("authorization_reference", "x" * 37),
        *((f, None) for f in ("start_time", "end_time")),
        ("end_time", timestamp(datetime(2026, 6, 2, 18, tzinfo=UTC))),
        ("charging_periods", []),
    ],
    "ReleaseCharge": [
        *PLACES,
        *USER_IDS,
        *(("authorization_reference", bad) for bad in ("", "x" * 37)),
    ],
    "ReverseCapture": [
        *PLACES,
        *USER_IDS,
        *(("cdr_id", bad) for bad in ("", "x" * 40, "é")),
    ],
    "ListLedgerEntries": [*PAGES, *USER_IDS, *(("pass_id", bad) for bad in ("", LONG, "é"))],
    "RegisterToken": [
        *(("token.user_id", bad) for bad in ("", LONG, "é")),
        *tokens("token.reference"),
        ("token.contract_id", "x" * 37),
        ("token.whitelist", 99),
    ],
    "ListTokens": [*PAGES, *USER_IDS],
    "DeleteToken": [*USER_IDS, *tokens("reference")],
    "GetCharge": [*USER_IDS, *(("authorization_reference", bad) for bad in ("", "x" * 37))],
    "ListCharges": [*PAGES, *USER_IDS],
    "DeleteLocations": [
        *PLACES,
        *(("location_ids", bad) for bad in ([], ["x"] * 501)),
        *(("location_ids.0", bad) for bad in ("", "x" * 37, "é")),
    ],
    "DeleteTariffs": [
        *PLACES,
        *(("tariff_ids", bad) for bad in ([], ["x"] * 501)),
        *(("tariff_ids.0", bad) for bad in ("", "x" * 37, "é")),
    ],
    "DeleteSessions": [
        *USER_IDS,
        *(("session_ids", bad) for bad in ([], ["x"] * 1_001)),
        *(("session_ids.0", bad) for bad in ("", LONG, "é")),
    ],
    "RecordSessions": [("sessions", [requests.session()] * 1001)],
    "GetTendency": USER_IDS,
    "DeclarePreferences": [
        *USER_IDS,
        ("preferences", None),
        ("preferences.profile_type", 99),
    ],
    "UpsertUser": [
        *((f"user.{f}", bad) for f, bad in USER_IDS),
        ("user.time_zone", "Oslo"),
        *(("user.currency_code", bad) for bad in ("nok", "ZZZ", "NO")),
        *(("user.language", bad) for bad in ("x" * 36, "n", "nb_NO", "nb-")),
        *(("user.country_code", bad) for bad in ("no", "NOR")),
    ],
    "StreamEvents": [
        *(("cursor", bad) for bad in ("x", "é", "A" * 40, "A" * 44, "a" * 65, "=" * 40)),
        ("event_types", [event_pb.EventType.EVENT_TYPE_PASS_PURCHASED] * 21),
    ],
    "GetUser": USER_IDS,
    "RegisterVehicle": [
        *((f"vehicle.{f}", bad) for f, bad in USER_IDS),
        *(("vehicle.vehicle_id", bad) for bad in ("", LONG, "a b")),
        *((f"vehicle.profile.{f}", bad) for f, bad in PROFILE),
    ],
    "ListVehicles": [*USER_IDS, *PAGES],
    "DeregisterVehicle": [*USER_IDS, *(("vehicle_id", bad) for bad in ("", LONG, "a b"))],
    "ExportUser": [*USER_IDS, *PAGES],
    "EraseUser": USER_IDS,
    "RequestOffers": REQUEST_OFFERS,
    "BatchRequestOffers": [
        *(("requests", [good_request("RequestOffers")] * bad) for bad in (0, 501)),
        ("requests", [voucher_pb.RequestOffersRequest(user_id="a", max_offers=20)] * 101),
    ],
    # A bad request of a stream is answered in the stream: see test_batch_offers.
    "StreamOffers": [],
    "ExplainOffers": [*((f"request.{path}", bad) for path, bad in REQUEST_OFFERS), *PAGES],
    "PurchasePass": [
        *(("request_id", bad) for bad in ("", "7", "{" + str(uuid.UUID(int=7)) + "}", "x" * 36)),
        *(("offer_id", bad) for bad in ("", "x" * 513, "a b", "é")),
        ("user_id", LONG),
        ("vehicle_id", "a b"),
        ("payment", None),
        *(("payment.captured.reference", bad) for bad in ("", "x" * 129, "a b", "a\0")),
        *((f"payment.hold.{f}", bad) for f, bad in (("amount", money(-1)), ("amount.nanos", 1))),
        ("payment.captured.amount", money(-1)),
        ("payment.captured.amount", money(10**9)),
        ("payment.captured.amount", money(2**63 - 1, 999_999_000)),
        ("payment.captured.amount.nanos", 1),
        ("payment.captured.amount.currency_code", ""),
        ("payment.captured.amount.currency_code", "kroner"),
    ],
    "ConfirmPurchase": [
        *USER_IDS,
        *(("pass_id", bad) for bad in ("", LONG, "a b")),
        *(("payment.reference", bad) for bad in ("", "x" * 129, "a b", "a\0")),
        ("payment.amount", money(-1)),
        ("payment.amount.nanos", 1),
        ("payment.amount.currency_code", "kroner"),
    ],
    "CancelPass": [*USER_IDS, *(("pass_id", bad) for bad in ("", LONG, "a b"))],
    "GetPass": [*USER_IDS, *(("pass_id", bad) for bad in ("", LONG, "a b"))],
    "ListPasses": [*USER_IDS, *PAGES],
}


def field_of(path: str) -> str:
    """The path as the service writes it: any_of[0] for any_of.0."""
    parts: list[str] = []
    for part in path.split("."):
        if part.isdigit():
            parts[-1] += f"[{part}]"
        else:
            parts.append(part)
    return ".".join(parts)


def test_every_method_has_cases() -> None:
    """A method that is added gets its table."""
    assert set(METHODS) == set(CASES)


@pytest.mark.parametrize("name", CASES)
async def test_each_bad_field_is_named_with_its_path(shared_service: Service, name: str) -> None:
    """INVALID_ARGUMENT, INVALID_FIELD, and the field's path in BadRequest."""
    wrong: list[tuple[str, Any, str, dict[str, str]]] = []
    for path, value in CASES[name]:
        request = good_request(name)
        put(request, path, value)
        try:
            failed = await refused(shared_service, name, request)
        except pytest.fail.Exception:
            wrong.append((path, value, "taken", {}))
            continue
        expected = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        if (failed.code, failed.reason) != expected or field_of(path) not in failed.violations:
            wrong.append((path, value, failed.reason, failed.violations))
    assert [] == wrong


@pytest.mark.parametrize(
    ("name", "field", "path", "value"),
    [
        ("UpsertLocations", "locations", path, value)
        for path, value in [
            *PLACES,
            ("location_id", ""),
            ("location_id", "x" * 37),
            ("name", "x" * 256),
            ("time_zone", ""),
            ("time_zone", "Oslo"),
            ("evses.0.evse_uid", ""),
            ("evses.0.connectors.0.connector_id", ""),
            ("evses.0.connectors.0.standard", ""),
            ("evses.0.connectors.0.standard", "SCHUKO"),
            ("evses.0.connectors.0.power_type", 99),
            ("evses.0.connectors.0.max_power_w", -1),
            ("evses.0.connectors.0.max_power_w", 10_000_001),
            ("evses.0.connectors.0.tariff_ids", ["x"] * 11),
        ]
    ]
    + [
        ("UpsertTariffs", "tariffs", path, value)
        for path, value in [
            *PLACES,
            ("tariff_id", ""),
            ("currency_code", "nok"),
            ("currency_code", "ZZZ"),
            ("elements", []),
            ("elements.0.price_components", []),
            ("elements.0.price_components.0.dimension", 0),
            ("elements.0.price_components.0.dimension", 99),
            ("elements.0.price_components.0.price_micros", -1),
            ("elements.0.price_components.0.price_micros", 2**62),
            ("elements.0.price_components.0.vat_basis_points", 10_001),
            ("elements.0.price_components.0.step_size", -1),
            ("elements.0.restrictions.start_time", "25:00"),
            ("min_price_micros", -1),
            ("max_price_micros", -1),
        ]
    ],
)
async def test_each_bad_entry_has_a_verdict_that_names_its_field(
    shared_service: Service, name: str, field: str, path: str, value: Any
) -> None:
    """The good neighbours are stored; the bad one is refused by the path in the request."""
    request = good_request(name)
    entries = getattr(request, field)
    entries.append(entries[0])
    put(request, f"{field}.1.{path}", value)
    method = getattr(shared_service.client.location, name)
    good, bad = (await shared_service.client.call(method, request)).results
    assert 0 == good.code
    assert grpc.StatusCode.INVALID_ARGUMENT.value[0] == bad.code
    assert bad.message.startswith(f"{field}[1].{field_of(path)}: ")


SESSION_CASES: list[tuple[str, Any]] = [
    *USER_IDS,
    *(("session_id", bad) for bad in ("", LONG, "a\0")),
    ("location", None),
    *((f"location.{f}", bad) for f, bad in PLACES),
    ("location.location_id", ""),
    ("location.evse_uid", ""),  # a connector needs it
    ("time_zone", "Oslo"),
    ("start_time", None),
    ("start_time", at("2009-12-31T23:59:59")),
    ("start_time", timestamp(datetime.now(UTC) + timedelta(days=2))),
    ("start_time", Timestamp(seconds=-(2**63))),
    ("start_time.nanos", -1),
    ("end_time", at("2020-01-01T00:00")),
    ("end_time", timestamp(datetime.now(UTC) + timedelta(days=15))),
    ("end_time", Timestamp(seconds=2**63 - 1)),
    ("energy_wh", -1),
    ("energy_wh", 10_000_001),
]


@pytest.mark.parametrize(("path", "value"), SESSION_CASES)
async def test_each_bad_session_is_reported_and_the_good_ones_are_kept(
    shared_service: Service, unique: str, path: str, value: Any
) -> None:
    """By its position in the stream, with the field's name."""
    sent = [requests.session(f"{unique}-{n}") for n in range(3)]
    put(sent[1], path, value)
    report = await shared_service.client.record_sessions([sent])
    assert (2, 1) == (report.recorded, report.refused)
    [refusal] = report.refusals
    assert (1, sent[1].session_id[:64]) == (refusal.index, refusal.session_id)
    assert refusal.status.message.startswith(f"{path}: ")


async def test_all_that_is_wrong_is_named_at_once(shared_service: Service) -> None:
    """So that a caller need not try again for each field."""
    request = good_request("UpsertUser")
    request.user.user_id = ""
    request.user.time_zone = "Oslo"
    request.user.language = "?"
    failed = await refused(shared_service, "UpsertUser", request)
    assert {
        "user.user_id": "is missing",
        "user.time_zone": 'must be an IANA time zone such as "Europe/Oslo"',
        "user.language": 'must be a BCP 47 tag such as "en"',
    } == failed.violations


async def test_offers_need_a_user_or_a_vehicle(shared_service: Service) -> None:
    """And a currency that somebody says."""
    empty = voucher_pb.RequestOffersRequest()
    failed = await refused(shared_service, "RequestOffers", empty)
    assert ("INVALID_FIELD", {"user_id"}) == (failed.reason, set(failed.violations))
    nowhere = voucher_pb.RequestOffersRequest(user_id="nobody-anywhere")
    failed = await refused(shared_service, "RequestOffers", nowhere)
    assert ("INVALID_FIELD", {"currency_code"}) == (failed.reason, set(failed.violations))


def signed(key: str = OFFER_KEYS, **changes: Any) -> str:
    """An offer_id of a product that is not there, signed by the key of the tests or another."""
    key_id, _, secret = key.partition(":")
    values: dict[str, Any] = {
        "user_id": "spoiled",
        "product_id": "never-was",
        "product_revision": 1,
        "price_micros": 49_000_000,
        "currency_code": "NOK",
        "expire_time": datetime.now(UTC) + timedelta(minutes=5),
    }
    signer = OfferSigner({int(key_id): bytes.fromhex(secret)}, int(key_id))
    return signer.sign(OfferTerms(**{**values, **changes}))


def raw_offer(**parts: bytes) -> str:
    """The bytes of a signed offer with a user and a product of any bytes."""
    text = signed()
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    user, product = parts.get("user", b"spoiled"), parts.get("product", b"p")
    forged = raw[:31] + bytes([len(user)]) + user + product + b"\0" * 16
    return base64.urlsafe_b64encode(forged).rstrip(b"=").decode()


FORGED: dict[str, tuple[Callable[[], str], str]] = {
    "unreadable": (lambda: "unreadable", "OFFER_INVALID"),
    "zeros": (lambda: "A" * 512, "OFFER_INVALID"),
    "a foreign key": (lambda: signed("1:" + "cd" * 32), "OFFER_INVALID"),
    "an unknown key": (lambda: signed("9:" + "ab" * 32), "OFFER_INVALID"),
    "another character": (lambda: signed()[:-1] + "!", "OFFER_INVALID"),
    "padding": (lambda: signed() + "=", "OFFER_INVALID"),
    "NUL in the user": (lambda: raw_offer(user=b"spoiled\0"), "OFFER_INVALID"),
    "NUL as the user": (lambda: raw_offer(user=b"\0"), "OFFER_INVALID"),
    "a long user": (lambda: raw_offer(user=b"x" * 200), "OFFER_INVALID"),
    "NUL as the product": (lambda: raw_offer(product=b"\0"), "OFFER_INVALID"),
    "no text": (lambda: raw_offer(product=b"\xff"), "OFFER_INVALID"),
    "no signature": (raw_offer, "OFFER_INVALID"),
    "expired": (
        lambda: signed(expire_time=datetime.now(UTC) - timedelta(seconds=2)),
        "OFFER_EXPIRED",
    ),
    "another user": (lambda: signed(user_id="somebody-else"), "OFFER_OF_ANOTHER_USER"),
    "no such product": (signed, "PRODUCT_NOT_FOUND"),
    "no such revision": (lambda: signed(product_revision=2**31 - 1), "PRODUCT_NOT_FOUND"),
}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("user_id", ["", "spoiled"])
async def test_an_offer_that_is_not_ours_buys_nothing(
    shared_service: Service, kind: str, user_id: str
) -> None:
    """Tampered with, of a foreign key, expired, or of another user: each by its own reason."""
    offer_id, reason = FORGED[kind][0](), FORGED[kind][1]
    request = good_request("PurchasePass", offer_id)
    request.user_id = user_id
    if not user_id and reason == "OFFER_OF_ANOTHER_USER":
        reason = "PRODUCT_NOT_FOUND"  # nobody is claimed to be somebody else
    assert reason == (await refused(shared_service, "PurchasePass", request)).reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("GetProduct", "PRODUCT_NOT_FOUND"),
        ("UpdateProduct", "PRODUCT_NOT_FOUND"),
        ("RetireProduct", "PRODUCT_NOT_FOUND"),
        ("GetLocation", "LOCATION_NOT_FOUND"),
        ("GetTariff", "TARIFF_NOT_FOUND"),
        ("PriceCharge", "LOCATION_NOT_FOUND"),
        ("GetUser", "USER_NOT_FOUND"),
        ("GetTendency", "USER_NOT_FOUND"),
        ("DeregisterVehicle", "VEHICLE_NOT_FOUND"),
        ("GetPass", "PASS_NOT_FOUND"),
        ("AuthorizeCharge", "LOCATION_NOT_FOUND"),
        ("CaptureCharge", "LOCATION_NOT_FOUND"),
        ("ReleaseCharge", "CHARGE_NOT_FOUND"),
        ("ReverseCapture", "CDR_NOT_FOUND"),
        ("GetCharge", "CHARGE_NOT_FOUND"),
        ("DeleteToken", "TOKEN_NOT_FOUND"),
    ],
)
async def test_what_is_not_known_is_not_found(
    fresh_service: Service, name: str, reason: str
) -> None:
    """NOT_FOUND with the reason of the thing."""
    failed = await refused(fresh_service, name, good_request(name))
    assert (grpc.StatusCode.NOT_FOUND, reason) == (failed.code, failed.reason)


async def test_offers_for_what_is_not_known_are_refused(shared_service: Service) -> None:
    """A vehicle alone that is not registered; a place that is not there."""
    vehicle = voucher_pb.RequestOffersRequest(vehicle_id="never-was")
    assert "VEHICLE_NOT_FOUND" == (await refused(shared_service, "RequestOffers", vehicle)).reason
    place = good_request("RequestOffers")
    place.place.location.CopyFrom(
        conditions_pb.LocationReference(country_code="NO", party_id="OSL", location_id="never-was")
    )
    assert "LOCATION_NOT_FOUND" == (await refused(shared_service, "RequestOffers", place)).reason


async def test_a_pass_id_of_any_form_is_merely_not_found(shared_service: Service) -> None:
    """It is opaque to callers."""
    for pass_id in ("7", "not-a-uuid", str(uuid.UUID(int=1)), "{" + str(uuid.UUID(int=1)) + "}"):
        request = voucher_pb.GetPassRequest(user_id="spoiled", pass_id=pass_id)
        assert "PASS_NOT_FOUND" == (await refused(shared_service, "GetPass", request)).reason


TOKENS: dict[str, tuple[tuple[str, ...], int]] = {
    "ListProducts": (("ListProducts", "False"), 1),
    "ListLocations": (("ListLocations", "NO", "OSL"), 3),
    "ListTariffs": (("ListTariffs", "NO", "OSL"), 3),
    "ListVehicles": (("ListVehicles", "spoiled"), 1),
    "ListPasses": (("ListPasses", "spoiled"), 2),
}


def crafted(scope: tuple[str, ...], body: bytes) -> str:
    """A token with the right digest and any body."""
    digest = base64.urlsafe_b64decode(page_token(scope, []))[:6]
    return base64.urlsafe_b64encode(digest + body).decode()


@pytest.mark.parametrize("name", TOKENS)
async def test_a_wrong_page_token_is_named(shared_service: Service, name: str) -> None:
    """Rubbish, of another method, of other parameters, of another shape, with impossible parts."""
    scope, parts = TOKENS[name]
    wrong = [
        *("?", "AAAA", "é", "x" * 2000, "A" * 1024),
        page_token(("Other", *scope[1:]), ["a"] * parts),
        page_token((*scope[:-1], "other"), ["a"] * parts),
        page_token(scope, ["a"] * (parts + 1)),
        page_token(scope, []),
        page_token(scope, ["a\0"] * parts),
        *(crafted(scope, body) for body in (b"", b"{", b"null", b"7", b"\xff", b"[" * 500)),
        *(crafted(scope, f"[{','.join([x] * parts)}]".encode()) for x in ("7", "null", "[]", "{}")),
        crafted(scope, json.dumps(["\ud800"] * parts).encode()),
    ]
    for token in wrong:
        request = good_request(name)
        request.page_token = token
        failed = await refused(shared_service, name, request)
        assert ("INVALID_PAGE_TOKEN", {"page_token"}) == (failed.reason, set(failed.violations))


@pytest.mark.parametrize(
    "last",
    [
        ("yesterday", str(uuid.UUID(int=1))),
        ("2026-11-16T12:00:00+00:00", "7"),
        ("2026-11-16T12:00:00", str(uuid.UUID(int=1))),
        ("0001-01-01T00:00:00+14:00", str(uuid.UUID(int=1))),
        ("9999-12-31T23:59:59-14:00", str(uuid.UUID(int=1))),
        ("", ""),
    ],
)
async def test_a_crafted_token_of_passes_is_never_a_fault(
    shared_service: Service, last: tuple[str, str]
) -> None:
    """Its parts are not a time and a pass: INVALID_PAGE_TOKEN."""
    request = voucher_pb.ListPassesRequest(
        user_id="spoiled", page_token=page_token(("ListPasses", "spoiled"), last)
    )
    assert "INVALID_PAGE_TOKEN" == (await refused(shared_service, "ListPasses", request)).reason
