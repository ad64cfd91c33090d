"""Whatever arrives, the service answers with one of its published reasons and goes on.

Raw bytes, invalid text and every kind of extreme value are sent to every method,
health and reflection among them, over a real connection.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Service, new_database, serving
from tests.integration.requests import METHODS, Method, good_request
from voucher_grpc.edge.wire.status import CODES, DOMAIN
from voucher_grpc.errors import Reason

HEALTH = tuple(
    Method(
        f"/grpc.health.v1.Health/{name}",
        getattr(health_pb2, "HealthListRequest" if name == "List" else "HealthCheckRequest"),
        False,
        name == "Watch",
    )
    for name in health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name
)
REFLECTION = tuple(
    Method(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest,
        True,
        True,
    )
    for version in ("v1", "v1alpha")
)
OURS = tuple(METHODS.values())
BOUNDED = settings(
    deadline=None,
    derandomize=True,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TIMEOUT_S = 60.0
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def spoiled_service(cluster_url: str) -> AsyncIterator[Service]:
    """A server whose database fills with whatever was taken."""
    async with new_database(cluster_url) as url, serving(url) as service:
        yield service


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(service.target) as channel:
        yield channel


async def answer(
    channel: Any, method: Method, messages: Sequence[bytes]
) -> tuple[grpc.StatusCode, Status]:
    """The status of a call with raw bytes; an endless stream is left after its first answer."""
    if method.client_stream and method.server_stream:
        call: Any = channel.stream_stream(method.path)(_each(messages), timeout=TIMEOUT_S)
    elif method.client_stream:
        call = channel.stream_unary(method.path)(_each(messages), timeout=TIMEOUT_S)
    elif method.server_stream:
        call = channel.unary_stream(method.path)(messages[0], timeout=TIMEOUT_S)
    else:
        call = channel.unary_unary(method.path)(messages[0], timeout=TIMEOUT_S)
    status = Status()
    try:
        if method.server_stream:
            async for _ in call:
                if not method.client_stream:
                    call.cancel()
                    return grpc.StatusCode.OK, status
        else:
            await call
    except grpc.aio.AioRpcError as error:
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                assert isinstance(value, bytes)
                status = Status.FromString(value)
    return await call.code(), status


async def _each(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def assert_published(method: Method, code: grpc.StatusCode, status: Status) -> None:
    """OK, or a refusal with a reason from the list that goes with its code and is no fault."""
    if code is grpc.StatusCode.OK:
        return
    infos = [
        details.ErrorInfo.FromString(d.value)
        for d in status.details
        if d.Is(details.ErrorInfo.DESCRIPTOR)
    ]
    assert 1 == len(infos), f"{method.path}: {code} without ErrorInfo"
    assert DOMAIN == infos[0].domain
    reason = Reason(infos[0].reason)
    assert code is CODES[reason]
    assert code is _BY_NUMBER[status.code]
    assert reason not in (Reason.INTERNAL, Reason.STORE_UNAVAILABLE, Reason.OVERLOADED), method.path


async def assert_all_published(
    service: Service, calls: Sequence[tuple[Method, Sequence[bytes]]]
) -> list[grpc.StatusCode]:
    """Make all calls, many at once; each is answered as promised."""
    at_once = asyncio.Semaphore(64)

    async def one(method: Method, messages: Sequence[bytes]) -> tuple[grpc.StatusCode, Status]:
        async with at_once:
            return await answer(channel, method, messages)

    async with connected(service) as channel:
        answers = await asyncio.gather(*(one(method, messages) for method, messages in calls))
    for (method, _), (code, status) in zip(calls, answers, strict=True):
        assert_published(method, code, status)
    return [code for code, _ in answers]


def test_every_method_that_is_served_is_tested(shared_service: Service) -> None:
    """The lists here are those of the server."""
    listed = {method.path for method in (*OURS, *HEALTH, *REFLECTION)}
    assert listed == set(shared_service.server.methods)


@settings(BOUNDED, max_examples=40)
@given(st.binary(max_size=200))
async def test_any_bytes_are_answered(spoiled_service: Service, raw: bytes) -> None:
    """Every method takes any bytes."""
    methods = (*OURS, *HEALTH[:1])
    await assert_all_published(spoiled_service, [(method, [raw]) for method in methods])


@BOUNDED
@given(st.binary(max_size=50))
async def test_any_bytes_are_answered_by_health_and_reflection(
    spoiled_service: Service, raw: bytes
) -> None:
    """Never UNKNOWN with a Python message, which is what the runtime makes of it."""
    async with connected(spoiled_service) as channel:
        for method in (*HEALTH, *REFLECTION):
            code, _ = await answer(channel, method, [raw])
            assert code in (
                grpc.StatusCode.OK,
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.NOT_FOUND,
            ), method.path


def string_fields(descriptor: Any, tags: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """The ways to all text fields of a message, as field numbers."""
    for field in descriptor.fields:
        way = (*tags, field.number)
        if field.type == FieldDescriptor.TYPE_STRING:
            yield way
        elif field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.full_name.startswith(
            ("voucher_grpc", "google.type")
        ):
            yield from string_fields(field.message_type, way)


def wrapped(way: tuple[int, ...], value: bytes) -> bytes:
    """The bytes of a message that has only this field."""
    for number in reversed(way):
        tag = (number << 3) | 2
        head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
        value = head + bytes([len(value)]) + value
    return value


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("text", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"])
async def test_text_that_is_not_utf_8_is_malformed(
    shared_service: Service, name: str, text: bytes
) -> None:
    """In any text field of any request, however deep; also a lone surrogate."""
    method = METHODS[name]
    ways = list(string_fields(method.request.DESCRIPTOR))
    calls = [(method, [wrapped(way, text)]) for way in ways]
    async with connected(shared_service) as channel:
        answers = await asyncio.gather(*(answer(channel, m, messages) for m, messages in calls))
    reasons = [
        details.ErrorInfo.FromString(status.details[0].value).reason for _, status in answers
    ]
    assert ["MALFORMED_MESSAGE"] * len(ways) == reasons


TEXTS = (
    *("", "x", "x" * 65, "x" * 600, "\0", "a\0b", " ", "\n", "é", "\U0001f50c", "\x7f", "%s", "'"),
    *("NO", "NOK", "XXX", "ZZZ", "OSL", "UTC", "../UTC", "Europe/Oslo", "en", "IEC_62196_T2"),
    *("00:00", "24:00", "22:00", "2026-02-30", "0001-01-01", "9999-12-31", "2026-W01-1"),
    *("00000000-0000-0000-0000-000000000007", "bnVsbA==", "eyJhIjoxfQ", "spoiled"),
)
INTEGERS = (
    0,
    1,
    2,
    7,
    -1,
    1000,
    10_000,
    2**31 - 1,
    -(2**31),
    2**63 - 1,
    -(2**63),
    10**12,
    999_999_999,
)
_INT32 = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32)


def extreme(field: FieldDescriptor, pick: int) -> Any:
    """A value of a field's type that hurts."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS[pick % len(TEXTS)]
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes(pick % 50)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return bool(pick % 2)
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return (0.0, -1.0, float("nan"), float("inf"), 1e308)[pick % 5]
    value = INTEGERS[pick % len(INTEGERS)]
    if field.type in (*_INT32, FieldDescriptor.TYPE_ENUM):
        return max(-(2**31), min(2**31 - 1, value))
    return value


def places_in(message: Message, depth: int = 0) -> list[tuple[Message, Any]]:
    """Every field of a message and of the messages in it, set or not."""
    found: list[tuple[Message, Any]] = []
    for field in message.DESCRIPTOR.fields:
        found.append((message, field))
        if field.type != FieldDescriptor.TYPE_MESSAGE or depth > 4:
            continue
        if field.is_repeated:
            for item in getattr(message, field.name):
                found += places_in(item, depth + 1)
        elif message.HasField(field.name):
            found += places_in(getattr(message, field.name), depth + 1)
    return found


def spoil(message: Message, where: int, pick: int) -> None:
    """Change one field: an extreme value, one more in a list, a part left out or put in empty."""
    places = places_in(message)
    holder, field = places[where % len(places)]
    value = getattr(holder, field.name)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if field.is_repeated:
            value.add()
        elif pick % 3 == 0:
            holder.ClearField(field.name)
        else:
            value.SetInParent()
    elif field.is_repeated:
        value.append(extreme(field, pick))
    else:
        setattr(holder, field.name, extreme(field, pick))


changes = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 2**16)), min_size=1, max_size=4)


@pytest.mark.parametrize("name", METHODS)
@BOUNDED
@given(st.lists(changes, min_size=16, max_size=24))
async def test_spoiled_requests_are_answered(
    spoiled_service: Service, name: str, spoiled: list[list[tuple[int, int]]]
) -> None:
    """A good request with up to four fields made extreme: bounds, NUL, unknown enums, and so on."""
    calls = []
    for fields in spoiled:
        request = good_request(name)
        for where, pick in fields:
            spoil(request, where, pick)
        calls.append((METHODS[name], [request.SerializeToString()]))
    await assert_all_published(spoiled_service, calls)


@pytest.mark.parametrize("name", METHODS)
async def test_each_field_alone_may_have_any_extreme_value(
    spoiled_service: Service, name: str
) -> None:
    """Every field of every request with every value of the lists above."""
    calls = []
    for where in range(len(places_in(good_request(name)))):
        for pick in range(len(TEXTS)):
            request = good_request(name)
            spoil(request, where, pick)
            calls.append((METHODS[name], [request.SerializeToString()]))
    unique = list({messages[0]: (method, messages) for method, messages in calls}.values())
    await assert_all_published(spoiled_service, unique)


async def test_a_request_with_everything_wrong_is_still_answered_in_full(
    shared_service: Service,
) -> None:
    """The details of a status travel in a header, which must not grow with what is wrong."""
    request = good_request("CreateProduct")
    conditions = request.product.conditions
    for index in range(20):
        bad = conditions.any_of.add(
            start_time="x" * 100, end_time="y", start_date="z", end_date="w"
        )
        bad.min_energy_wh = bad.max_energy_wh = bad.min_power_w = bad.max_power_w = -index - 1
        bad.day_of_week.append(9)
    for _ in range(200):
        conditions.selectors.locations.add(country_code="?" * 50, connector_id="é" * 50)
    conditions.selectors.connector_standards.extend(["unknown" * 20] * 1000)
    codes = await assert_all_published(
        shared_service, [(METHODS["CreateProduct"], [request.SerializeToString()])]
    )
    assert [grpc.StatusCode.INVALID_ARGUMENT] == codes


async def test_nesting_without_end_is_malformed(shared_service: Service) -> None:
    """A message in a message a thousand times over."""
    raw = b""
    for _ in range(1000):
        raw = b"\x0b" + raw + b"\x0c"  # a group, number 1
    codes = await assert_all_published(shared_service, [(method, [raw]) for method in OURS])
    assert {grpc.StatusCode.INVALID_ARGUMENT} == set(codes)


@BOUNDED
@given(st.lists(st.one_of(st.binary(max_size=40), changes), min_size=1, max_size=6))
async def test_any_stream_of_sessions_is_answered(
    spoiled_service: Service, parts: list[bytes | list[tuple[int, int]]]
) -> None:
    """Good, spoiled and malformed messages in any order."""
    messages = []
    for part in parts:
        request = good_request("RecordSessions")
        for where, pick in part if isinstance(part, list) else ():
            spoil(request, where, pick)
        messages.append(part if isinstance(part, bytes) else request.SerializeToString())
    await assert_all_published(spoiled_service, [(METHODS["RecordSessions"], messages)])


async def test_what_came_before_a_malformed_message_of_a_stream_is_kept(
    spoiled_service: Service, unique: str
) -> None:
    """Each message is one transaction: sending all of it again is safe."""
    good = good_request("RecordSessions")
    good.sessions[0].user_id = unique
    codes = await assert_all_published(
        spoiled_service,
        [
            (
                METHODS["RecordSessions"],
                [good.SerializeToString(), b"\xff\xff", good.SerializeToString()],
            )
        ],
    )
    assert [grpc.StatusCode.INVALID_ARGUMENT] == codes
    report = await spoiled_service.client.record_sessions([good.sessions])
    assert (0, 1) == (report.recorded, report.unchanged)


async def test_an_unknown_service_is_not_found_by_health(shared_service: Service) -> None:
    """Health v1: NOT_FOUND on Check, SERVICE_UNKNOWN on Watch."""
    request = health_pb2.HealthCheckRequest(service="nobody").SerializeToString()
    async with connected(shared_service) as channel:
        code, _ = await answer(channel, HEALTH[0], [request])
        assert grpc.StatusCode.NOT_FOUND is code
        watch = channel.unary_stream(
            HEALTH[-1].path, response_deserializer=health_pb2.HealthCheckResponse.FromString
        )(request, timeout=TIMEOUT_S)
        first = await watch.read()
        assert health_pb2.HealthCheckResponse.SERVICE_UNKNOWN == first.status
        watch.cancel()
