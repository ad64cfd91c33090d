"""UserService: users, their vehicles, and what is stored about them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from voucher_grpc.currencies import payable_unit_micros
from voucher_grpc.domain.personal_data import Value
from voucher_grpc.domain.places.location import Vehicle
from voucher_grpc.domain.redemption.token import Token
from voucher_grpc.domain.users import User
from voucher_grpc.edge.servicers.listing import Lists, Row, row
from voucher_grpc.edge.wire.checks import Checks
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.edge.wire.pages import Page
from voucher_grpc.edge.wire.paging import instant_and_id, invalid_page_token, read_page_token
from voucher_grpc.edge.wire.places import vehicle_from_message, vehicle_message
from voucher_grpc.edge.wire.tokens import (
    token_from_message,
    token_key_from_message,
    token_message,
)
from voucher_grpc.edge.wire.users import record_message, user_message
from voucher_grpc.runtime.clock import DatabaseClock
from voucher_grpc.store.export import KEY_PARTS, ExportStore, Section
from voucher_grpc.store.slices import Slice
from voucher_grpc.store.tokens import TokenStore
from voucher_grpc.store.users import UserStore
from voucher_grpc.use_cases.erase_user import EraseUser
from voucher_grpc.v1 import user_service_pb2 as pb
from voucher_grpc.v1 import user_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
MAX_PAGE_SIZE = 1_000
DEFAULT_EXPORT_PAGE_SIZE = 200
# Passes among them may each be of another product revision, whose terms are read with it.
_RECORDS_OF_A_SLICE = 50
_SECTIONS = tuple(Section)
# The section and the key of the last record, filled up with empty parts.
_TOKEN_PARTS = 1 + max(KEY_PARTS.values())


class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    """Keeps users and vehicles; exports and erases what is stored about a user."""

    def __init__(
        self,
        store: UserStore,
        tokens: TokenStore,
        exports: ExportStore,
        erasures: EraseUser,
        clock: DatabaseClock,
        lists: Lists,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._exports = exports
        self._erasures = erasures
        self._clock = clock
        self._lists = lists

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
        start = read_page_token(request.page_token, scope, 1) or ("",)

        async def read(last: Sequence[str] | None, limit: int) -> Slice[Vehicle]:
            [after] = last or start
            vehicles = await self._store.list_vehicles(user_id, after, limit)
            return Slice(vehicles, len(vehicles) == limit)

        page = Page(pb.ListVehiclesResponse.DESCRIPTOR, "vehicles", scope, size)
        return await self._lists.answer(page, read, _vehicle_row, context)  # type: ignore[return-value]

    async def DeregisterVehicle(
        self, request: pb.DeregisterVehicleRequest, context: Context
    ) -> pb.DeregisterVehicleResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        vehicle_id = checks.identifier("vehicle_id", request.vehicle_id, required=True)
        checks.done()
        await self._store.deregister_vehicle(user_id, vehicle_id)
        return pb.DeregisterVehicleResponse()

    async def RegisterToken(
        self, request: pb.RegisterTokenRequest, context: Context
    ) -> pb.RegisterTokenResponse:
        checks = Checks()
        token = token_from_message(checks, "token", request.token)
        checks.done()
        return pb.RegisterTokenResponse(token=token_message(await self._tokens.register(token)))

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Context
    ) -> pb.ListTokensResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE) or 50
        checks.done()
        scope = ("ListTokens", user_id)
        start = read_page_token(request.page_token, scope, 1) or ("",)

        async def read(last: Sequence[str] | None, limit: int) -> Slice[Token]:
            [after] = last or start
            tokens = await self._tokens.page(user_id, after, limit)
            return Slice(tokens, len(tokens) == limit)

        page = Page(pb.ListTokensResponse.DESCRIPTOR, "tokens", scope, size)
        return await self._lists.answer(page, read, _token_row, context)  # type: ignore[return-value]

    async def DeleteToken(
        self, request: pb.DeleteTokenRequest, context: Context
    ) -> pb.DeleteTokenResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        key = token_key_from_message(checks, "reference", request.reference)
        checks.done()
        await self._tokens.delete(user_id, key)
        return pb.DeleteTokenResponse()

    async def ExportUser(
        self, request: pb.ExportUserRequest, context: Context
    ) -> pb.ExportUserResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE)
        checks.done()
        scope = ("ExportUser", user_id)
        start = read_page_token(request.page_token, scope, _TOKEN_PARTS)
        now = self._clock.now()

        async def read(last: Sequence[str] | None, limit: int) -> Slice[_Exported]:
            return await self._exported(user_id, *_export_position(last or start), limit)

        def encode(exported: _Exported) -> Row:
            return row(exported.position, record_message(exported.value, now))

        page = Page(
            pb.ExportUserResponse.DESCRIPTOR,
            "records",
            scope,
            size or DEFAULT_EXPORT_PAGE_SIZE,
            head=pb.ExportUserResponse(read_time=timestamp(now)).SerializeToString(),
        )
        return await self._lists.answer(page, read, encode, context)  # type: ignore[return-value]

    async def _exported(
        self, user_id: str, first: Section, after: Sequence[str] | None, limit: int
    ) -> Slice["_Exported"]:
        """Up to `limit` records from a position on."""
        limit = min(limit, _RECORDS_OF_A_SLICE)
        found: list[_Exported] = []
        for section in _SECTIONS[_SECTIONS.index(first) :]:
            kept = await self._exports.read(user_id, section, after, limit - len(found))
            found.extend(_exported(section, key, value) for key, value in kept)
            if len(found) == limit:
                return Slice(found, more=True)
            after = None
        return Slice(found, more=False)

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


class _Exported(NamedTuple):
    """A record, and the position in an export that it has."""

    position: Sequence[str]
    value: Value


def _exported(section: Section, key: Sequence[str], value: Value) -> _Exported:
    return _Exported((section, *key, *[""] * (_TOKEN_PARTS - 1 - len(key))), value)


def _token_row(token: Token) -> Row:
    return row((token.key.compared,), token_message(token))


def _vehicle_row(vehicle: Vehicle) -> Row:
    return row((vehicle.vehicle_id,), vehicle_message(vehicle))


def _export_position(last: Sequence[str] | None) -> tuple[Section, Sequence[str] | None]:
    """Where a page begins: a section, and after which key of it. Raises INVALID_PAGE_TOKEN."""
    if last is None:
        return _SECTIONS[0], None
    try:
        section = Section(last[0])
    except ValueError:
        raise invalid_page_token() from None
    key = last[1 : 1 + KEY_PARTS[section]]
    if section in (Section.PASSES, Section.CHARGES):
        instant_and_id(key)
    return section, key
