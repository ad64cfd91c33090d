"""UserService: users and their vehicles."""

from typing import Any

import grpc

from voucher_grpc.servicers.currencies import payable_unit_micros
from voucher_grpc.store.users import UserStore
from voucher_grpc.users import User
from voucher_grpc.v1 import user_service_pb2 as pb
from voucher_grpc.v1 import user_service_pb2_grpc
from voucher_grpc.wire.checks import Checks
from voucher_grpc.wire.messages import timestamp
from voucher_grpc.wire.paging import page_token, read_page_token
from voucher_grpc.wire.places import vehicle_from_message, vehicle_message

Context = grpc.aio.ServicerContext[Any, Any]
MAX_PAGE_SIZE = 1_000


class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    """Keeps users and vehicles."""

    def __init__(self, store: UserStore) -> None:
        self._store = store

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
        return pb.UpsertUserResponse(user=_user(await self._store.upsert(user)))

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        checks = Checks()
        user_id = checks.identifier("user_id", request.user_id, required=True)
        checks.done()
        return pb.GetUserResponse(user=_user(await self._store.get(user_id)))

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


def _user(user: User) -> pb.User:
    message = pb.User(
        user_id=user.user_id,
        time_zone=user.time_zone,
        currency_code=user.currency_code,
        language=user.language,
        country_code=user.country_code,
    )
    if user.create_time is not None:
        message.create_time.CopyFrom(timestamp(user.create_time))
    if user.update_time is not None:
        message.update_time.CopyFrom(timestamp(user.update_time))
    return message
