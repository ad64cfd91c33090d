"""Who may do what: every RPC, every kind of caller, its own things and foreign ones.

What is expected is written out here (`ALLOWED`), not taken from the table that the server
reads; what is denied is denied before the caller could learn whether the thing exists.
"""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.conftest import OFFER_KEYS, Service, new_database, serving
from tests.integration.credentials import ISSUER, Issuer, write_key_set
from tests.integration.operating import PATIENCE_S
from tests.integration.requests import METHODS, Method, good_request
from tests.integration.shop import create
from voucher_grpc.access.roles import Role
from voucher_grpc.access.table import RULES, OwnershipCheck
from voucher_grpc.client import CallFailed, Client, call_failed
from voucher_grpc.domain.offer_ids.signer import OfferSigner, OfferTerms
from voucher_grpc.v1 import voucher_service_pb2 as voucher_pb

OWN_USER, FOREIGN_USER, NO_USER = "own-user", "foreign-user", "no-such-user"
OWN_VEHICLE, FOREIGN_VEHICLE, NO_VEHICLE = "own-vehicle", "foreign-vehicle", "no-such-vehicle"
OWN_PARTY, FOREIGN_PARTY = "OSL", "FOR"
KEY = bytes.fromhex(OFFER_KEYS.partition(":")[2])
ROLES = [*Role, None]
# What a client of grpc.aio hears from its own runtime if its call ends while it still writes.
OWN_FAULT = "Internal error from Core"
HEALTH_LIST = "/grpc.health.v1.Health/List"
OUTSIDE = {
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(),
    "/grpc.health.v1.Health/Watch": health_pb2.HealthCheckRequest(),
    **{
        f"/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo": (
            reflection_pb2.ServerReflectionRequest(list_services="")
        )
        for v in ("v1", "v1alpha")
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded_server(
    cluster_url: str, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """A server that asks for tokens, with a product to sell."""
    keys = write_key_set(tmp_path_factory.mktemp("keys") / "jwks.json", issuer)
    settings: dict[str, Any] = {
        "token_keys": str(keys),
        "token_issuer": ISSUER,
        "rate_limits": "support:1000/1000",
    }
    async with (
        new_database(cluster_url) as url,
        serving(url, **settings) as service,
        Client(service.target, token=all_powerful(issuer)) as client,
    ):
        await create(client, "standard", default_offer=True)
        yield service


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(guarded_server: Service, issuer: Issuer) -> Service:
    """The server, with both users and their vehicles, whatever became of them in another test."""
    async with Client(guarded_server.target, token=all_powerful(issuer)) as client:
        for user, vehicle in ((OWN_USER, OWN_VEHICLE), (FOREIGN_USER, FOREIGN_VEHICLE)):
            registration = good_request("RegisterVehicle")
            registration.vehicle.vehicle_id, registration.vehicle.user_id = vehicle, user
            await client.call(client.user.RegisterVehicle, registration)
    return guarded_server


def all_powerful(issuer: Issuer) -> str:
    """A token for everything."""
    return issuer.token("root", *Role, users=["*"], vehicles=["*"], parties=["*"])


def token_of(issuer: Issuer, role: Role | None) -> str:
    """A caller of a kind, whose own things are the own ones; None has no role."""
    named = {
        "users": [OWN_USER],
        "vehicles": [OWN_VEHICLE],
        "parties": [f"NO*{OWN_PARTY}"],
    }
    # Who has no role here may not call often.
    subject = OWN_USER if role is Role.USER else f"the-{role or uuid.uuid4()}"
    return issuer.token(subject, *([role] if role else ["a role of something else"]), **named)


def signed_for(user_id: str) -> str:
    """An offer that the service has made to a user."""
    terms = OfferTerms(
        user_id, "standard", 1, 49_000_000, "NOK", datetime.now(UTC) + timedelta(minutes=5)
    )
    return OfferSigner({1: KEY}, 1).sign(terms)


def about(name: str, user: str, vehicle: str, party: str) -> Message:
    """A good request on these things."""
    request = good_request(name, offer_id=signed_for(user))
    _set_all(request, {"user_id": user, "vehicle_id": vehicle, "party_id": party})
    if name == "PurchasePass":
        request.request_id = str(uuid.uuid4())
        request.payment.hold.amount.CopyFrom(request.payment.captured.amount)
    return request  # type: ignore[no-any-return]


def _set_all(message: Any, values: dict[str, str]) -> None:
    """Set the fields of these names, however deep."""
    for field in message.DESCRIPTOR.fields:
        if field.name in values and field.type == field.TYPE_STRING:
            setattr(message, field.name, values[field.name])
        elif field.message_type is None:
            continue
        elif field.is_repeated:
            for item in getattr(message, field.name):
                if isinstance(item, Message):
                    _set_all(item, values)
        elif message.HasField(field.name):
            _set_all(getattr(message, field.name), values)


async def reason(
    service: Service, path: str, request: Message, token: str | None
) -> tuple[str, str, dict[str, str]]:
    """(reason, message, details) of what a call gets; "" for an answer."""
    kinds = METHODS.get(path.rsplit("/", 1)[1])
    metadata = [("authorization", f"Bearer {token}")] if token else []
    async with grpc.aio.insecure_channel(service.target) as channel:
        try:
            answer = await _first(channel, path, request, kinds, metadata)
        except grpc.aio.AioRpcError as error:
            failed = call_failed(error)
            if failed.message == OWN_FAULT:
                return await reason(service, path, request, token)
            return failed.reason or failed.code.name, failed.message, failed.metadata
    return await _within(path, answer)


async def _within(path: str, answer: bytes) -> tuple[str, str, dict[str, str]]:
    """What became of the request in an answer that has a result for each of several."""
    if path.endswith("/BatchRequestOffers"):
        [result] = voucher_pb.BatchRequestOffersResponse.FromString(answer).results[:1]
    elif path.endswith("/StreamOffers"):
        result = voucher_pb.StreamOffersResponse.FromString(answer).result
    else:
        return "", "", {}
    if not result.HasField("status"):
        return "", "", {}
    info = ErrorInfo()
    result.status.details[0].Unpack(info)
    return info.reason, result.status.message, dict(info.metadata)


async def _first(
    channel: Any, path: str, request: Message, kind: Method | None, metadata: Any
) -> Any:
    """The first answer, as bytes."""
    raw = request.SerializeToString()
    streams_in = "Reflection" in path or (kind is not None and kind.client_stream)
    streams_out = path.endswith(("Watch", "ServerReflectionInfo")) or (
        kind is not None and kind.server_stream
    )
    call: Any
    if streams_in and streams_out:
        call = channel.stream_stream(path)(iter([raw]), metadata=metadata, timeout=PATIENCE_S)
    elif streams_in:
        return await channel.stream_unary(path)(iter([raw]), metadata=metadata, timeout=PATIENCE_S)
    elif streams_out:
        call = channel.unary_stream(path)(raw, metadata=metadata, timeout=PATIENCE_S)
    else:
        return await channel.unary_unary(path)(raw, metadata=metadata, timeout=PATIENCE_S)
    async for message in call:
        call.cancel()
        return message
    return b""


# Written out, so that a mistake in the table the server reads does not excuse itself:
# RPC -> (who may call it about what is their own, who about everybody's as well).
ALLOWED = {
    "RequestOffers": ("user gateway", "support"),
    "BatchRequestOffers": ("user gateway", "support"),
    "StreamOffers": ("user gateway", "support"),
    "ExplainOffers": ("user gateway", "support"),
    "PurchasePass": ("user gateway", "biller"),
    "ConfirmPurchase": ("gateway", "biller"),
    "CancelPass": ("user gateway", ""),
    "GetPass": ("user gateway", "biller support"),
    "ListPasses": ("user gateway", "biller support"),
    "ListLedgerEntries": ("user gateway", "biller support"),
    "CreateProduct": ("", "operator"),
    "GetProduct": ("", "gateway operator support"),
    "ListProducts": ("", "gateway operator support"),
    "UpdateProduct": ("", "operator"),
    "RetireProduct": ("", "operator"),
    "UpsertLocations": ("station operator", ""),
    "UpsertTariffs": ("station operator", ""),
    "GetLocation": ("station operator", "user gateway support"),
    "ListLocations": ("station operator", "user gateway support"),
    "GetTariff": ("station operator", "user gateway support"),
    "ListTariffs": ("station operator", "user gateway support"),
    "PriceCharge": ("station operator", "user gateway support"),
    "DeleteLocations": ("station operator", ""),
    "DeleteTariffs": ("station operator", ""),
    "AuthorizeCharge": ("station", ""),
    "CaptureCharge": ("station", ""),
    "ReleaseCharge": ("station", ""),
    "ReverseCapture": ("station", ""),
    "GetCharge": ("user gateway", "biller support"),
    "ListCharges": ("user gateway", "biller support"),
    "RecordSessions": ("", "platform"),
    "DeleteSessions": ("", "platform"),
    "GetTendency": ("user gateway", "platform support"),
    "DeclarePreferences": ("user gateway", ""),
    "UpsertUser": ("user gateway", ""),
    "GetUser": ("user gateway", "support platform"),
    "RegisterVehicle": ("user gateway", ""),
    "ListVehicles": ("user gateway", "support platform"),
    "DeregisterVehicle": ("user gateway", ""),
    "RegisterToken": ("gateway", "platform"),
    "ListTokens": ("user gateway", "support platform"),
    "DeleteToken": ("gateway", "platform"),
    "ExportUser": ("user", "support"),
    "EraseUser": ("user", ""),
    "StreamEvents": ("", "consumer"),
}
OFFERS = {"RequestOffers", "BatchRequestOffers", "StreamOffers", "ExplainOffers"}


def expected(path: str, role: Role | None, *, own: bool) -> bool:
    """Whether it is allowed; what is outside of the product's services is for all callers."""
    if path in OUTSIDE:
        return True
    about_own, about_all = ALLOWED[path.rsplit("/", 1)[1]]
    return role in about_all.split() or (own and role in about_own.split())


DENIED = {"ACCESS_DENIED", "CREDENTIALS_MISSING", "CREDENTIALS_INVALID", "CREDENTIALS_EXPIRED"}


@pytest.mark.parametrize("role", ROLES, ids=str)
@pytest.mark.parametrize("path", sorted(set(RULES) - {HEALTH_LIST}))
async def test_an_rpc_is_allowed_exactly_where_the_table_says(
    guarded: Service, issuer: Issuer, path: str, role: Role | None
) -> None:
    """Own things and foreign ones; by user and, where a request may do so, by vehicle only."""
    token, name = token_of(issuer, role), path.rsplit("/", 1)[1]
    cases = [
        (True, OWN_USER, "", OWN_PARTY),
        (False, FOREIGN_USER, "", FOREIGN_PARTY),
    ]
    if name in OFFERS:
        cases += [(True, "", OWN_VEHICLE, ""), (False, "", FOREIGN_VEHICLE, "")]
    if name == "PurchasePass":
        cases += [(False, FOREIGN_USER, OWN_VEHICLE, "")]
    for own, user, vehicle, party in cases:
        request = OUTSIDE.get(path)
        if request is None:
            request = about(name, user, vehicle, party)
        got, message, _ = await reason(guarded, path, request, token)
        assert expected(path, role, own=own) == (got not in DENIED), (
            own,
            user,
            vehicle,
            got,
            message,
        )
        if got in DENIED:
            assert "ACCESS_DENIED" == got


@pytest.mark.parametrize("path", sorted(set(RULES) - {HEALTH_LIST}))
async def test_without_a_token_only_health_answers(guarded: Service, path: str) -> None:
    """A stranger's bytes are not even parsed."""
    request = OUTSIDE.get(path) or good_request(path.rsplit("/", 1)[1])
    got, _, _ = await reason(guarded, path, request, None)
    open_to_all = path.startswith("/grpc.health.v1.Health/")
    assert ("" if open_to_all else "CREDENTIALS_MISSING") == got


def test_every_rpc_has_a_rule(guarded: Service) -> None:
    """And no rule is left over: what is served and what is in the table is the same.

    Health's List is younger than the oldest library that will do.
    """
    assert set(RULES) - {HEALTH_LIST} == set(guarded.server.methods) - {HEALTH_LIST}
    assert {method.path for method in METHODS.values()} <= set(RULES)


FOREIGN_METHODS = sorted(p for p, rule in RULES.items() if rule.owned is not OwnershipCheck.NOTHING)


@pytest.mark.parametrize("path", FOREIGN_METHODS)
async def test_what_is_foreign_looks_like_what_does_not_exist(
    guarded: Service, issuer: Issuer, path: str
) -> None:
    """The same refusal, to the letter, whether the user, vehicle or party exists or not."""
    name = path.rsplit("/", 1)[1]
    party_rpc = RULES[path].owned is OwnershipCheck.PARTY
    token = token_of(issuer, Role.STATION if party_rpc else Role.GATEWAY)
    existing = about(name, FOREIGN_USER, "", FOREIGN_PARTY)
    missing = about(name, NO_USER, "", "XXX")
    told = [await reason(guarded, path, request, token) for request in (existing, missing)]
    assert told[0] == told[1]
    assert "ACCESS_DENIED" == told[0][0]
    if RULES[path].owned is OwnershipCheck.OFFERED:
        pairs = [about(name, "", v, "") for v in (FOREIGN_VEHICLE, NO_VEHICLE)]
        told = [await reason(guarded, path, request, token) for request in pairs]
        assert told[0] == told[1]
        assert "ACCESS_DENIED" == told[0][0]


@pytest.mark.parametrize("spoiled", ["place", "currency"])
@pytest.mark.parametrize("name", ["RequestOffers", "StreamOffers", "ExplainOffers"])
async def test_nothing_else_of_a_foreign_vehicle_is_looked_at(
    guarded: Service, issuer: Issuer, name: str, spoiled: str
) -> None:
    """Whatever else is wrong with the request would tell whether the vehicle exists."""
    told = []
    for vehicle in (FOREIGN_VEHICLE, NO_VEHICLE):
        request: Any = about(name, "", vehicle, "")
        inner = request if name == "RequestOffers" else request.request
        inner.currency_code = ""
        if spoiled == "place":
            place = inner.place.location
            place.country_code, place.party_id, place.location_id = "NO", "OSL", "nowhere"
        token = token_of(issuer, Role.USER)
        told.append(await reason(guarded, METHODS[name].path, request, token))
    assert told[0] == told[1]
    assert "ACCESS_DENIED" == told[0][0]


async def test_the_default_tariff_of_a_country_is_nobodys_own(
    guarded: Service, issuer: Issuer
) -> None:
    """Whoever sets it takes it from another party; that needs credentials for all."""
    request: Any = about("UpsertTariffs", "", "", OWN_PARTY)
    request.tariffs[0].default_for_country = True
    request.tariffs[0].elements[0].ClearField("restrictions")
    path = METHODS["UpsertTariffs"].path
    got, _, _ = await reason(guarded, path, request, token_of(issuer, Role.STATION))
    assert "ACCESS_DENIED" == got
    everywhere = issuer.token("hub", "station", parties=["*"])
    assert "" == (await reason(guarded, path, request, everywhere))[0]


async def test_a_user_places_holds_and_a_trusted_caller_asserts_payments(
    guarded: Service, issuer: Issuer
) -> None:
    """Whoever could say of itself that it has paid would have passes for nothing."""
    request = about("PurchasePass", OWN_USER, "", "")
    assert isinstance(request, voucher_pb.PurchasePassRequest)
    captured = good_request("PurchasePass").payment
    path = METHODS["PurchasePass"].path
    user = token_of(issuer, Role.USER)
    assert "" == (await reason(guarded, path, request, user))[0]

    request.payment.CopyFrom(captured)
    request.payment.captured.reference = f"pay-{uuid.uuid4()}"
    request.request_id, request.offer_id = str(uuid.uuid4()), signed_for(OWN_USER)
    got, _, details = await reason(guarded, path, request, user)
    assert ("ACCESS_DENIED", {"scope": "payments.assert"}) == (got, details)
    for role in (Role.GATEWAY, Role.BILLER):
        request.request_id, request.offer_id = str(uuid.uuid4()), signed_for(OWN_USER)
        request.payment.captured.reference = f"pay-{uuid.uuid4()}"
        assert "" == (await reason(guarded, path, request, token_of(issuer, role)))[0]


async def test_a_gateway_that_knows_vehicles_only_buys_for_their_users(
    guarded: Service, issuer: Issuer
) -> None:
    """Not with an offer made to somebody else, and not for a vehicle that is nobody's."""
    # A user of its own: one who has the pass already is offered nothing.
    user, vehicle = f"user-{uuid.uuid4()}", f"vehicle-{uuid.uuid4()}"
    async with Client(guarded.target, token=all_powerful(issuer)) as client:
        registration = good_request("RegisterVehicle")
        registration.vehicle.vehicle_id, registration.vehicle.user_id = vehicle, user
        await client.call(client.user.RegisterVehicle, registration)
    named = [OWN_VEHICLE, vehicle, "unregistered-*"]
    token = issuer.token("gateway-7", "gateway", vehicles=named)
    async with Client(guarded.target, token=token) as client:
        answer = await client.request_offers(vehicle_id=vehicle, currency_code="NOK")
        offer = answer.offers[0]
        bought = await client.purchase_pass(
            offer, payment_reference=f"pay-{uuid.uuid4()}", vehicle_id=vehicle
        )
        assert user == bought.user_id
    path = METHODS["PurchasePass"].path
    for user, vehicle in (
        (FOREIGN_USER, OWN_VEHICLE),
        (OWN_USER, FOREIGN_VEHICLE),
        (OWN_USER, "unregistered-1"),
        (OWN_USER, ""),
    ):
        request = about("PurchasePass", user, vehicle, "")
        request.ClearField("user_id")
        assert "ACCESS_DENIED" == (await reason(guarded, path, request, token))[0]
    offers = about("RequestOffers", OWN_USER, "unregistered-1", "")
    got, _, _ = await reason(guarded, METHODS["RequestOffers"].path, offers, token)
    assert "ACCESS_DENIED" == got


async def test_beginnings_of_names_cover_what_begins_so(guarded: Service, issuer: Issuer) -> None:
    """`own-*` covers own-user; a user's own token is never read so, whatever the user's name."""
    path = METHODS["ListPasses"].path
    request = about("ListPasses", OWN_USER, "", "")
    covering = issuer.token("gateway", "gateway", users=["own-*"])
    assert "" == (await reason(guarded, path, request, covering))[0]
    for subject in ("*", "own-*"):
        told = await reason(guarded, path, request, issuer.token(subject, "user"))
        assert "ACCESS_DENIED" == told[0]


async def test_one_bad_request_of_a_batch_stays_its_own(guarded: Service, issuer: Issuer) -> None:
    """A gateway with one foreign vehicle among its own has answers for its own."""
    requests = [about("RequestOffers", "", v, "") for v in (OWN_VEHICLE, FOREIGN_VEHICLE)]
    batch = voucher_pb.BatchRequestOffersRequest(requests=requests)  # type: ignore[arg-type]
    async with Client(guarded.target, token=token_of(issuer, Role.GATEWAY)) as client:
        answer = await client.call(client.voucher.BatchRequestOffers, batch)
    assert [False, True] == [result.HasField("status") for result in answer.results]


async def test_the_actor_of_a_change_is_who_the_credentials_say(
    guarded: Service, issuer: Issuer
) -> None:
    """Not what the caller writes into a header."""
    token = issuer.token("olga", "operator", parties=["*"])
    metadata = [("voucher-actor", "somebody-else")]
    async with Client(guarded.target, token=token, metadata=metadata) as client:
        made = await create(client, f"by-olga-{uuid.uuid4().hex[:6]}")
    connection = await asyncpg.connect(guarded.database_url)
    query = "SELECT created_by FROM product_revisions WHERE product_id = $1"
    assert "olga" == await connection.fetchval(query, made.product_id)
    await connection.close()


async def test_a_caller_that_calls_too_often_is_told_when_to_come_again(
    cluster_url: str, issuer: Issuer, tmp_path: Path
) -> None:
    """Each of a batch counts; others go on; the refused is counted by its reason."""
    keys = write_key_set(tmp_path / "jwks.json", issuer)
    settings = {"token_keys": str(keys), "token_issuer": ISSUER, "rate_limits": "user:0.001/3"}
    async with new_database(cluster_url) as url, serving(url, **settings) as service:
        alice, bob = (
            token_of(issuer, Role.USER) if u else issuer.token("bob", "user") for u in (1, 0)
        )
        path = METHODS["ListPasses"].path
        request = about("ListPasses", OWN_USER, "", "")
        told = [(await reason(service, path, request, alice))[0] for _ in range(4)]
        assert ["", "", "", "RATE_LIMITED"] == told
        assert "" == (await reason(service, path, about("ListPasses", "bob", "", ""), bob))[0]
        value = service.server.metrics.registry.get_sample_value(
            "voucher_refusals_total", {"grpc_method": "ListPasses", "reason": "RATE_LIMITED"}
        )
        assert 1 == value
        async with Client(service.target, token=issuer.token("carol", "user")) as client:
            wanted = [about("RequestOffers", "carol", "", "")] * 9
            batch = voucher_pb.BatchRequestOffersRequest(requests=wanted)  # type: ignore[arg-type]
            await client.call(client.voucher.BatchRequestOffers, batch)
            with pytest.raises(CallFailed) as caught:
                await client.call(client.voucher.BatchRequestOffers, batch)
            assert "RATE_LIMITED" == caught.value.reason
            # Nine calls after ten, at one in a thousand seconds, but for a burst.
            assert 6_900 < (caught.value.retry_after_s or 0) <= 7_000
