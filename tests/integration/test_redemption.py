"""RedemptionService: a pass is used at a station, from the authorization to the bill."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import Service, serving
from tests.integration.operating import until
from tests.integration.requests import location
from tests.integration.shop import (
    buy,
    create,
    execute,
    fetch,
    habit,
    outcome,
    set_tariff,
    signed_offer,
)
from tests.integration.test_places import put_locations, put_tariffs
from tests.integration.test_price_charge import ENERGY, FLAT, component, element, tariff
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.v1 import redemption_service_pb2 as pb
from voucher_grpc.v1 import token_pb2 as token_pb
from voucher_grpc.v1.pass_pb2 import Pass, PassState
from voucher_grpc.v1.user_service_pb2 import (
    DeleteTokenRequest,
    ListTokensRequest,
    RegisterTokenRequest,
)
from voucher_grpc.v1.voucher_service_pb2 import (
    CancelPassRequest,
    GetPassRequest,
    ListLedgerEntriesRequest,
)


@pytest.fixture
def client(shared_service: Service) -> Client:
    return shared_service.client


MICROS = 1_000_000
KWH = 1_000
MINUTE_MICROS = 16_667  # of an hour
ALLOWED, NO_CREDIT, NOT_ALLOWED = (
    pb.ALLOWED_TYPE_ALLOWED,
    pb.ALLOWED_TYPE_NO_CREDIT,
    pb.ALLOWED_TYPE_NOT_ALLOWED,
)


async def station(service: Service, name: str, price: float = 4.0, **more: Any) -> None:
    """A location whose only connector costs so much per kWh with tax, and 5 a session."""
    own = tariff(f"{name}-T", element(component(ENERGY, price, vat=0), component(FLAT, 5, vat=0)))
    place = location(name)
    del place.evses[0].connectors[0].tariff_ids[:]
    place.evses[0].connectors[0].tariff_ids.append(own.tariff_id)
    await put_tariffs(service.client, own)
    await put_locations(service.client, place)


async def owned(client: Client, user_id: str, **product: Any) -> Pass:
    """A pass that a user has bought: by default for 100 kWh."""
    product_id = product.pop("product_id", None) or f"p-{uuid.uuid4()}"
    values = {"benefit": {"energy_bundle_kwh": 100}, "price": "200.00 NOK", **product}
    return await buy(client, signed_offer(await create(client, product_id, **values), user_id))


def at(place: str) -> dict[str, Any]:
    return {"country_code": "NO", "party_id": "OSL", "location_id": place}


async def authorize(client: Client, user_id: str, place: str, **more: Any) -> Any:
    request = pb.AuthorizeChargeRequest(
        user_id=user_id,
        request_id=more.pop("request_id", None) or str(uuid.uuid4()),
        **at(place),
        **more,
    )
    return await client.call(client.redemption.AuthorizeCharge, request)


def cdr(
    user_id: str, place: str, kwh: Sequence[float], start: datetime, **more: Any
) -> pb.CaptureChargeRequest:
    """A charge of so many kWh in each of the minutes from its start."""
    minutes = range(len(kwh))
    name = more.pop("name", None) or str(uuid.uuid4())[:30]
    return pb.CaptureChargeRequest(
        user_id=user_id,
        **at(place),
        session_id=more.pop("session_id", f"S-{name}"),
        cdr_id=more.pop("cdr_id", f"C-{name}"),
        start_time=timestamp(start),
        end_time=timestamp(start + timedelta(minutes=len(kwh))),
        charging_periods=[
            pb.ChargingPeriod(
                start_time=timestamp(start + timedelta(minutes=minute)),
                dimensions=[
                    pb.ChargeDimension(
                        type=pb.CHARGE_DIMENSION_TYPE_ENERGY,
                        volume_micros=round(kwh[minute] * MICROS),
                    ),
                    pb.ChargeDimension(
                        type=pb.CHARGE_DIMENSION_TYPE_TIME, volume_micros=MICROS // 60
                    ),
                ],
            )
            for minute in minutes
        ],
        **more,
    )


async def capture(client: Client, request: pb.CaptureChargeRequest) -> Any:
    return (await client.call(client.redemption.CaptureCharge, request)).charge


async def reverse(client: Client, user_id: str, cdr_id: str) -> Any:
    request = pb.ReverseCaptureRequest(
        user_id=user_id, country_code="NO", party_id="OSL", cdr_id=cdr_id
    )
    return (await client.call(client.redemption.ReverseCapture, request)).charge


async def register_token(
    client: Client, user_id: str, uid: str, kind: Any = token_pb.TOKEN_TYPE_RFID, **more: Any
) -> token_pb.TokenReference:
    """An OCPI Token of a user."""
    reference = token_pb.TokenReference(country_code="NO", party_id="EMP", type=kind, uid=uid)
    token = token_pb.Token(reference=reference, user_id=user_id, **more)
    await client.call(client.user.RegisterToken, RegisterTokenRequest(token=token))
    return reference


async def release(client: Client, user_id: str, reference: str) -> Any:
    request = pb.ReleaseChargeRequest(
        user_id=user_id, authorization_reference=reference, country_code="NO", party_id="OSL"
    )
    return (await client.call(client.redemption.ReleaseCharge, request)).charge


async def get_pass(client: Client, one: Pass) -> Pass:
    request = GetPassRequest(user_id=one.user_id, pass_id=one.pass_id)
    found: Pass = getattr(await client.call(client.voucher.GetPass, request), "pass")
    return found


async def left_wh(client: Client, one: Pass) -> int:
    return (await get_pass(client, one)).balance.energy_wh


async def ledger(service: Service, one: Pass) -> list[tuple[str, int]]:
    rows = await fetch(
        service.database_url,
        "SELECT kind, energy_wh FROM ledger_entries"
        " WHERE user_id = $1 AND pass_id = $2 ORDER BY entry_number",
        one.user_id,
        uuid.UUID(one.pass_id),
    )
    return [tuple(row) for row in rows]


async def listed_kinds(client: Client, one: Pass) -> list[int]:
    """By ListLedgerEntries, in pages of two."""
    request = ListLedgerEntriesRequest(user_id=one.user_id, pass_id=one.pass_id, page_size=2)
    kinds = []
    while True:
        page = await client.call(client.voucher.ListLedgerEntries, request)
        kinds += [int(entry.kind) for entry in page.entries]
        request.page_token = page.next_page_token
        if not request.page_token:
            return kinds


async def events(service: Service, user_id: str) -> list[str]:
    rows = await fetch(
        service.database_url,
        "SELECT event_type FROM events WHERE user_id = $1 ORDER BY event_seq",
        user_id,
    )
    return [row["event_type"] for row in rows]


def moment() -> datetime:
    return datetime.now(UTC)


def hour_ago(hours: float = 2) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(hours=hours)


async def test_a_charge_is_reserved_then_taken_from_the_pass_and_the_rest_is_billed(
    shared_service: Service, client: Client, unique: str
) -> None:
    """Of 120 kWh the bundle has 100; 20 kWh at 4 and 5 for the session are left to pay."""
    await station(shared_service, unique)
    one = await owned(client, unique)
    answer = await authorize(client, unique, unique, energy_wh=40 * KWH, duration_s=7_200)
    assert (ALLOWED, 0) == (answer.allowed, answer.condition)
    assert [(one.pass_id, 40_000)] == [(p.pass_id, p.energy_wh) for p in answer.passes]
    assert (40_000, 7_200) == (answer.max_energy_wh, answer.max_duration_s)
    assert ("NOK", f"{unique}-T") == (answer.currency_code, answer.tariff_id)
    assert 36 == len(answer.authorization_reference)
    assert 60_000 == await left_wh(client, one)
    assert 40_000 == (await get_pass(client, one)).balance.reserved_energy_wh

    request = cdr(unique, unique, [60, 60], moment())
    request.authorization_reference = answer.authorization_reference
    charge = await capture(client, request)
    assert answer.authorization_reference == charge.authorization_reference
    assert (pb.CHARGE_STATUS_CAPTURED, 120_000) == (charge.status, charge.energy_wh)
    assert [(one.pass_id, 100_000, 400 * MICROS)] == [
        (p.pass_id, p.energy_wh, p.saved_micros) for p in charge.passes
    ]
    assert 85 * MICROS == charge.total_cost.after_tax_micros
    assert 485 * MICROS == charge.pay_as_you_go_cost.after_tax_micros
    assert 0 == await left_wh(client, one)
    assert [
        ("OPENING", 100_000),
        ("RESERVATION", -40_000),
        ("RELEASE", 40_000),
        ("CAPTURE", -100_000),
    ] == await ledger(shared_service, one)
    assert [1, 3, 4, 5] == await listed_kinds(client, one)
    assert [
        "PASS_PURCHASED",
        "PASS_AUTHORIZED",
        "PASS_CAPTURED",
        "PASS_EXHAUSTED",
    ] == await events(shared_service, unique)
    # The same CDR again is the same bill, and takes nothing.
    assert charge == await capture(client, request)
    found = await client.call(
        client.redemption.GetCharge,
        pb.GetChargeRequest(user_id=unique, authorization_reference=charge.authorization_reference),
    )
    assert charge == found.charge
    assert NO_CREDIT == (await authorize(client, unique, unique)).allowed
    used = await get_pass(client, one)
    assert PassState.PASS_STATE_EXHAUSTED == used.state


async def test_what_is_used_up_is_not_owned_and_is_offered_again(
    fresh_service: Service, unique: str
) -> None:
    """Of a bundle of which a part is left, that part is deducted from what another would save."""
    client = fresh_service.client
    await station(fresh_service, unique)
    await habit(client, unique, energy_wh=20_000, days=range(60))
    await set_tariff(client)
    one = await owned(client, unique, product_id=f"{unique}-b")

    async def offered() -> bool:
        answer = await client.request_offers(user_id=unique, currency_code="NOK", max_offers=20)
        return one.product_id in [offer.product_id for offer in answer.offers]

    assert not await offered()
    await capture(client, cdr(unique, unique, [99], moment()))
    assert not await offered()
    await capture(client, cdr(unique, unique, [1], moment()))
    assert await offered()


async def test_a_repeated_authorization_is_the_same_and_other_content_is_refused(
    shared_service: Service, client: Client, unique: str
) -> None:
    """Under one request_id nothing is reserved twice."""
    await station(shared_service, unique)
    one = await owned(client, unique)
    key = str(uuid.uuid4())
    first = await authorize(client, unique, unique, request_id=key, energy_wh=10 * KWH)
    assert first == await authorize(client, unique, unique, request_id=key, energy_wh=10 * KWH)
    assert 90_000 == await left_wh(client, one)
    again = authorize(client, unique, unique, request_id=key, energy_wh=11 * KWH)
    assert "REQUEST_ID_REUSED" == await outcome(again)
    dry = await authorize(client, unique, unique, energy_wh=10 * KWH, validate_only=True)
    assert (ALLOWED, "") == (dry.allowed, dry.authorization_reference)
    assert 90_000 == await left_wh(client, one)


async def test_what_is_released_can_be_reserved_again(
    shared_service: Service, client: Client, unique: str
) -> None:
    """Once more changes nothing; what was captured is reversed, not released."""
    await station(shared_service, unique)
    one = await owned(client, unique)
    reference = (
        await authorize(client, unique, unique, energy_wh=100 * KWH)
    ).authorization_reference
    for _ in range(2):
        assert pb.CHARGE_STATUS_RELEASED == (await release(client, unique, reference)).status
    assert 100_000 == await left_wh(client, one)
    second = await authorize(client, unique, unique, energy_wh=100 * KWH)
    assert [100_000] == [p.energy_wh for p in second.passes]
    request = cdr(unique, unique, [10], moment())
    request.authorization_reference = second.authorization_reference
    await capture(client, request)
    captured = release(client, unique, second.authorization_reference)
    assert "CHARGE_CAPTURED" == await outcome(captured)


async def test_a_capture_after_the_end_of_its_reservation_uses_what_is_left(
    fresh_database: str, unique: str
) -> None:
    """Of 70 kWh that were reserved 60 are reserved for another charge by then."""
    async with serving(fresh_database, authorization_lifetime_s=1) as brief:
        await station(brief, unique)
        one = await owned(brief.client, unique)
        ended = await authorize(brief.client, unique, unique, energy_wh=70 * KWH)

        async def given_back() -> bool:
            return await left_wh(brief.client, one) == 100_000

        await until(given_back)
    async with serving(fresh_database) as service:
        other = await authorize(service.client, unique, unique, energy_wh=60 * KWH)
        assert [60_000] == [p.energy_wh for p in other.passes]
        request = cdr(unique, unique, [70], moment())
        request.authorization_reference = ended.authorization_reference
        charge = await capture(service.client, request)
        assert [40_000] == [p.energy_wh for p in charge.passes]


async def test_a_reservation_ends_by_itself(fresh_database: str, unique: str) -> None:
    """Also of users who do not come back; it is told once."""
    async with serving(fresh_database, authorization_lifetime_s=1) as service:
        await station(service, unique)
        one = await owned(service.client, unique)
        await authorize(service.client, unique, unique, energy_wh=60 * KWH)

        async def given_back() -> bool:
            return await left_wh(service.client, one) == 100_000

        await until(given_back)
        assert [100_000, -60_000, 60_000] == [wh for _, wh in await ledger(service, one)]
        told = await events(service, unique)
        assert ["PASS_PURCHASED", "PASS_AUTHORIZED", "PASS_RELEASED"] == told


async def test_a_reversed_capture_gives_back_once_and_its_session_can_be_captured_anew(
    shared_service: Service, client: Client, unique: str
) -> None:
    """By another CDR; a CDR with other content, or a second one, is refused before."""
    await station(shared_service, unique)
    one = await owned(client, unique)
    request = cdr(unique, unique, [30], moment(), name=unique[:20])
    await capture(client, request)
    other = cdr(unique, unique, [31], moment(), name=unique[:20])
    assert "CDR_CONFLICT" == await outcome(capture(client, other))
    other.cdr_id = "ANOTHER"
    assert "SESSION_CAPTURED" == await outcome(capture(client, other))
    assert "CDR_NOT_FOUND" == await outcome(reverse(client, unique, "UNKNOWN"))
    assert pb.CHARGE_STATUS_REVERSED == (await reverse(client, unique, request.cdr_id)).status
    assert (
        pb.CHARGE_STATUS_REVERSED == (await reverse(client, unique, request.cdr_id.lower())).status
    )
    assert 100_000 == await left_wh(client, one)
    assert [31_000] == [p.energy_wh for p in (await capture(client, other)).passes]
    assert 69_000 == await left_wh(client, one)
    assert [
        ("OPENING", 100_000),
        ("CAPTURE", -30_000),
        ("REVERSAL", 30_000),
        ("CAPTURE", -31_000),
    ] == await ledger(shared_service, one)


@pytest.mark.parametrize(
    ("product", "place", "expected"),
    [
        ({"conditions": {"parties": ["SE*OSL"]}}, {}, "OPERATOR_OR_LOCATION"),
        ({"conditions": {"vehicle_types": ["TRUCK"]}}, {}, "VEHICLE_TYPE"),
        ({"conditions": {"connector_standards": ["CHADEMO"]}}, {}, "CONNECTOR"),
    ],
)
async def test_the_condition_that_is_not_met_is_named(
    shared_service: Service,
    client: Client,
    unique: str,
    product: dict[str, Any],
    place: dict[str, Any],
    expected: str,
) -> None:
    """With pay_as_you_go_allowed the user may charge at the tariff all the same."""
    await station(shared_service, unique)
    await owned(client, unique, **product)
    answer = await authorize(client, unique, unique)
    assert (NOT_ALLOWED, f"PASS_CONDITION_{expected}") == (
        answer.allowed,
        pb.PassCondition.Name(answer.condition),
    )
    key = str(uuid.uuid4())
    paid = await authorize(client, unique, unique, request_id=key, pay_as_you_go_allowed=True)
    assert (ALLOWED, answer.condition, []) == (paid.allowed, paid.condition, list(paid.passes))
    assert paid == await authorize(
        client, unique, unique, request_id=key, pay_as_you_go_allowed=True
    )


async def test_a_pass_that_has_ended_lately_is_told_as_the_reason(
    shared_service: Service, client: Client, unique: str
) -> None:
    """Whether or not its end has been noted."""
    await station(shared_service, unique)
    await owned(client, unique)
    await execute(
        shared_service.database_url,
        "UPDATE passes SET purchase_time = purchase_time - interval '40 days',"
        " start_time = start_time - interval '40 days', end_time = end_time - interval '40 days'"
        f" WHERE user_id = '{unique}'",
    )
    for _ in range(2):
        answer = await authorize(client, unique, unique)
        assert (pb.ALLOWED_TYPE_EXPIRED, pb.PASS_CONDITION_ENDED) == (
            answer.allowed,
            answer.condition,
        )

        async def noted() -> bool:
            return "PASS_EXPIRED" in await events(shared_service, unique)

        await until(noted)


async def test_nobody_without_a_pass_may_charge_unless_at_the_tariff(
    shared_service: Service, client: Client, unique: str
) -> None:
    """And nobody where nothing is known of the place."""
    await station(shared_service, unique)
    answer = await authorize(client, unique, unique)
    assert (NOT_ALLOWED, pb.PASS_CONDITION_NO_PASS) == (answer.allowed, answer.condition)
    assert "LOCATION_NOT_FOUND" == await outcome(authorize(client, unique, f"{unique}-no"))
    charge = await capture(client, cdr(unique, unique, [10], hour_ago()))
    assert 45 * MICROS == charge.total_cost.after_tax_micros
    assert [] == list(charge.passes)


async def test_ten_of_a_hundred_authorizations_on_two_servers_have_the_ten_sessions(
    fresh_database: str, unique: str
) -> None:
    """A pass for ten sessions."""
    async with serving(fresh_database) as first:
        await station(first, unique)
        # The second one is started with the tariff.
        async with serving(fresh_database) as second:
            await ten_of_a_hundred(unique, first.client, second.client)


async def ten_of_a_hundred(unique: str, *clients: Client) -> None:
    benefit = {"session_bundle": 10}
    await owned(clients[0], unique, benefit=benefit)
    answers = await asyncio.gather(
        *(authorize(client, unique, unique) for client in clients for _ in range(50))
    )
    allowed = [answer.allowed for answer in answers]
    assert (10, 90) == (allowed.count(ALLOWED), allowed.count(NO_CREDIT))
    assert [1] * 10 == [p.sessions for answer in answers for p in answer.passes]


async def test_a_pass_that_begins_with_its_first_use_begins_with_the_first_charge(
    shared_service: Service, client: Client, unique: str
) -> None:
    """An earlier charge that is told later does not move its end."""
    await station(shared_service, unique)
    validity = {"days": 30, "start": "FIRST_USE"}
    one = await owned(client, unique, validity=validity)
    soon, begins = moment(), moment() + timedelta(minutes=1)
    await capture(client, cdr(unique, unique, [10], begins))
    request = GetPassRequest(user_id=unique, pass_id=one.pass_id)
    found = getattr(await client.call(client.voucher.GetPass, request), "pass")
    assert timestamp(begins) == found.start_time
    late = await capture(client, cdr(unique, unique, [10], soon))
    assert 1 == len(late.passes)
    again = getattr(await client.call(client.voucher.GetPass, request), "pass")
    assert (found.start_time, found.end_time) == (again.start_time, again.end_time)


async def test_a_pass_with_a_charge_under_way_cannot_be_cancelled(
    shared_service: Service, client: Client, unique: str
) -> None:
    """Once the charge is over what is left is given back."""
    await station(shared_service, unique)
    one = await owned(client, unique, withdrawal_days=14)
    answer = await authorize(client, unique, unique, energy_wh=10 * KWH)
    cancel = CancelPassRequest(user_id=unique, pass_id=one.pass_id)
    assert "PASS_IN_USE" == await outcome(client.call(client.voucher.CancelPass, cancel))
    await release(client, unique, answer.authorization_reference)
    done = getattr(await client.call(client.voucher.CancelPass, cancel), "pass")
    assert 200 == done.refund.units


def begins(request: pb.CaptureChargeRequest, number: int) -> None:
    """Let a period begin in 1970."""
    request.charging_periods[number].start_time.FromSeconds(1)


@pytest.mark.parametrize(
    ("kind", "registered", "read"),
    [
        (token_pb.TOKEN_TYPE_RFID, "04a1{}", "04A1{}"),
        (token_pb.TOKEN_TYPE_EMAID, "NO-EMP-{}", "noemp{}"),
        (token_pb.TOKEN_TYPE_EMAID, "NO-EMP-{}", "NO-EMP-{}-X"),
        (token_pb.TOKEN_TYPE_OTHER, "VID:{}", "vid:{}"),
    ],
)
async def test_a_station_names_a_token_instead_of_a_user(
    shared_service: Service, client: Client, unique: str, kind: Any, registered: str, read: str
) -> None:
    """In any spelling; a blocked one is told, and one that nobody has is not found."""
    await station(shared_service, unique)
    one = await owned(client, unique)
    number = uuid.uuid4().hex[:9]
    token = await register_token(client, unique, registered.format(number), kind)
    shown = token_pb.TokenReference()
    shown.CopyFrom(token)
    shown.uid = read.format(number)
    answer = await authorize(client, "", unique, token=shown, energy_wh=10 * KWH)
    assert [one.pass_id] == [p.pass_id for p in answer.passes]
    request = cdr("", unique, [10], moment(), token=shown)
    request.authorization_reference = answer.authorization_reference
    assert (unique, 10_000) == ((c := await capture(client, request)).user_id, c.energy_wh)

    await register_token(client, unique, registered.format(number), kind, blocked=True)
    blocked = await authorize(client, "", unique, token=shown)
    assert (pb.ALLOWED_TYPE_BLOCKED, pb.PASS_CONDITION_TOKEN_BLOCKED) == (
        blocked.allowed,
        blocked.condition,
    )
    other = register_token(client, f"{unique}-x", registered.format(number), kind)
    assert "TOKEN_OF_ANOTHER_USER" == await outcome(other)
    foreign = authorize(client, f"{unique}-x", unique, token=shown)
    assert "TOKEN_NOT_FOUND" == await outcome(foreign)
    listed = await client.call(client.user.ListTokens, ListTokensRequest(user_id=unique))
    assert [(token.uid, True)] == [(t.reference.uid, t.blocked) for t in listed.tokens]
    delete = DeleteTokenRequest(user_id=unique, reference=shown)
    await client.call(client.user.DeleteToken, delete)
    assert "TOKEN_NOT_FOUND" == await outcome(authorize(client, "", unique, token=shown))


async def test_charges_are_listed_the_newest_first(
    shared_service: Service, client: Client, unique: str
) -> None:
    """In pages."""
    await station(shared_service, unique)
    for hours in (9, 5, 7):
        await capture(client, cdr(unique, unique, [hours], hour_ago(hours)))
    page = pb.ListChargesRequest(user_id=unique, page_size=2)
    first = await client.call(client.redemption.ListCharges, page)
    page.page_token = first.next_page_token
    second = await client.call(client.redemption.ListCharges, page)
    assert [5_000, 7_000, 9_000] == [c.energy_wh for c in (*first.charges, *second.charges)]
    assert "" == second.next_page_token


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r.ClearField("charging_periods"), "charging_periods"),
        (
            lambda r: r.charging_periods[1].start_time.FromSeconds(1),
            "charging_periods[1].start_time",
        ),
        (
            lambda r: r.charging_periods[0].start_time.FromSeconds(1),
            "charging_periods[0].start_time",
        ),
        (lambda r: r.end_time.CopyFrom(r.start_time), "end_time"),
        (lambda r: r.end_time.FromSeconds(4_000_000_000), "end_time"),
        (lambda r: setattr(r, "session_id", ""), "session_id"),
        (lambda r: setattr(r, "cdr_id", "x" * 40), "cdr_id"),
        (
            lambda r: setattr(r.charging_periods[0].dimensions[0], "volume_micros", -1),
            "charging_periods[0].dimensions[0].volume_micros",
        ),
        (
            lambda r: setattr(r.charging_periods[0].dimensions[0], "type", 99),
            "charging_periods[0].dimensions[0].type",
        ),
        (
            lambda r: r.charging_periods[0].dimensions.append(r.charging_periods[0].dimensions[0]),
            "charging_periods[0].dimensions[2].type",
        ),
        (lambda r: setattr(r, "connector_id", "1"), "evse_uid"),
    ],
)
async def test_a_cdr_that_makes_no_sense_is_refused_with_its_field(
    client: Client, unique: str, change: Any, field: str
) -> None:
    """Before anything is read."""
    request = cdr(unique, unique, [1, 2], moment())
    change(request)
    with pytest.raises(CallFailed) as caught:
        await capture(client, request)
    assert field in caught.value.violations
