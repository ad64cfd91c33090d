"""UserService: users, their vehicles, and what is kept about them."""

from collections.abc import Sequence
from typing import Any

import grpc

from voucher_grpc.currencies import payable_unit_micros
from voucher_grpc.store.clock import DatabaseClock
from voucher_grpc.store.erasure import ErasureStore
from voucher_grpc.store.export import KEY_PARTS, ExportStore, Section
from voucher_grpc.store.users import UserStore
from voucher_grpc.users import User
from voucher_grpc.v1 import user_service_pb2 as pb
from voucher_grpc.v1 import user_service_pb2_grpc
from voucher_grpc.wire.checks import Checks
from voucher_grpc.wire.messages import timestamp
from voucher_grpc.wire.paging import (
    instant_and_id,
    invalid_page_token,
    page_token,
    read_page_token,
)
from voucher_grpc.wire.places import vehicle_from_message, vehicle_message
from voucher_grpc.wire.users import record_message, user_message

Context = grpc.aio.ServicerContext[Any, Any]
MAX_PAGE_SIZE = 1_000
DEFAULT_EXPORT_PAGE_SIZE = 200
# A page of an export ends before it is larger than this; a record alone may be.
MAX_EXPORT_PAGE_BYTES = 2**20
_SECTIONS = tuple(Section)
# The section and the key of the last record, filled up with empty parts.
_TOKEN_PARTS = 1 + max(KEY_PARTS.values())


class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    """Keeps users and vehicles; shows and forgets what is kept about a user."""

    def __init__(
        self, store: UserStore, exports: ExportStore, erasures: ErasureStore, clock: DatabaseClock
    ) -> None:
        self._store = store
        self._exports = exports
        self._erasures = erasures
        self._clock = clock

    async def UpsertUser(
        self, request: pb.UpsertUserRequest, context: Context
    ) -> pb.UpsertUserResponse:
        sent = request.user
        checks = Checks()
        user = User(
            user_id=checks.identifier("user.user_id", sent.user_id, required=True),
            time_zone=checks.time_zone("user.time_zone", sent.time_zone),
            currency_code=checks.currency("user.currency_code", sent.currency_code),
            language=checks.language("user.language", sent.language),
            country_code=checks.country("user.country_code", sent.country_code),
        )
        if user.currency_code and payable_unit_micros(user.currency_code) is None:
            checks.wrong("user.currency_code", "must be a currency of ISO 4217")
        checks.done()
        return pb.UpsertUserResponse(user=user_message(await self._store.upsert(user)))

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        checks.done()
        return pb.GetUserResponse(user=user_message(await self._store.get(user_id)))

    async def RegisterVehicle(
        self, request: pb.RegisterVehicleRequest, context: Context
    ) -> pb.RegisterVehicleResponse:
        checks = Checks()
        vehicle = vehicle_from_message(checks, "vehicle", request.vehicle)
        checks.done()
        registered = await self._store.register_vehicle(vehicle)
        return pb.RegisterVehicleResponse(vehicle=vehicle_message(registered))

    async def ListVehicles(
        self, request: pb.ListVehiclesRequest, context: Context
    ) -> pb.ListVehiclesResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE) or 50
        checks.done()
        scope = ("ListVehicles", user_id)
        last = read_page_token(request.page_token, scope, 1)
        vehicles = await self._store.list_vehicles(user_id, last[0] if last else "", size + 1)
        more = len(vehicles) > size
        return pb.ListVehiclesResponse(
            vehicles=[vehicle_message(vehicle) for vehicle in vehicles[:size]],
            next_page_token=page_token(scope, [vehicles[size - 1].vehicle_id]) if more else "",
        )

    async def DeregisterVehicle(
        self, request: pb.DeregisterVehicleRequest, context: Context
    ) -> pb.DeregisterVehicleResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        vehicle_id = checks.identifier("vehicle_id", request.vehicle_id, required=True)
        checks.done()
        await self._store.deregister_vehicle(user_id, vehicle_id)
        return pb.DeregisterVehicleResponse()

    async def ExportUser(
        self, request: pb.ExportUserRequest, context: Context
    ) -> pb.ExportUserResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE)
        checks.done()
        scope = ("ExportUser", user_id)
        section, after = _export_position(read_page_token(request.page_token, scope, _TOKEN_PARTS))
        response = pb.ExportUserResponse(read_time=timestamp(self._clock.now()))
        last = await self._fill_export(
            response, user_id, section, after, size or DEFAULT_EXPORT_PAGE_SIZE
        )
        if last is not None:
            response.next_page_token = page_token(scope, last)
        return response

    async def _fill_export(
        self,
        response: pb.ExportUserResponse,
        user_id: str,
        first: Section,
        after: Sequence[str] | None,
        size: int,
    ) -> Sequence[str] | None:
        """Fill a page from a position on; the position it ends at, None if there is no more."""
        now, size_bytes = self._clock.now(), 0
        last: Sequence[str] = ()
        for section in _SECTIONS[_SECTIONS.index(first) :]:
            limit = size - len(response.records) + 1
            for key, value in await self._exports.read(user_id, section, after, limit):
                record = record_message(value, now)
                size_bytes += record.ByteSize()
                full = len(response.records) == size or size_bytes > MAX_EXPORT_PAGE_BYTES
                if full and response.records:
                    return last
                response.records.append(record)
                last = (section, *key, *[""] * (_TOKEN_PARTS - 1 - len(key)))
            after = None
        return None

    async def EraseUser(
        self, request: pb.EraseUserRequest, context: Context
    ) -> pb.EraseUserResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        checks.done()
        erased = await self._erasures.erase(user_id, forfeit=request.forfeit)
        return pb.EraseUserResponse(
            passes_kept=erased.passes_kept,
            vehicles_deleted=erased.vehicles_deleted,
            sessions_deleted=erased.sessions_deleted,
        )


def _export_position(last: Sequence[str] | None) -> tuple[Section, Sequence[str] | None]:
    """Where a page begins: a section, and after which key of it. Raises INVALID_PAGE_TOKEN."""
    if last is None:
        return _SECTIONS[0], None
    try:
        section = Section(last[0])
    except ValueError:
        raise invalid_page_token() from None
    key = last[1 : 1 + KEY_PARTS[section]]
    if section is Section.PASSES:
        instant_and_id(key)
    return section, key
