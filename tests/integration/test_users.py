"""Users and vehicles: a vehicle alone asks for offers, and belongs to one user."""

from typing import Any

import pytest

from tests.conftest import Service
from tests.integration.requests import good_request
from tests.integration.shop import create, fetch, habit, outcome, outcomes, set_tariff
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.v1.conditions_pb2 import VehicleType
from voucher_grpc.v1.user_service_pb2 import (
    DeregisterVehicleRequest,
    GetUserRequest,
    ListVehiclesRequest,
    RegisterVehicleRequest,
    UpsertUserRequest,
    User,
)
from voucher_grpc.v1.vehicle_pb2 import Vehicle, VehicleProfile


async def put_user(client: Client, user_id: str, **known: Any) -> User:
    request = UpsertUserRequest(user=User(user_id=user_id, **known))
    found: User = (await client.call(client.user.UpsertUser, request)).user
    return found


async def get_user(client: Client, user_id: str) -> User:
    found: User = (await client.call(client.user.GetUser, GetUserRequest(user_id=user_id))).user
    return found


async def register(client: Client, vehicle_id: str, user_id: str, **profile: Any) -> Vehicle:
    vehicle = Vehicle(vehicle_id=vehicle_id, user_id=user_id, profile=VehicleProfile(**profile))
    request = RegisterVehicleRequest(vehicle=vehicle)
    found: Vehicle = (await client.call(client.user.RegisterVehicle, request)).vehicle
    return found


async def deregister(client: Client, vehicle_id: str, user_id: str) -> None:
    request = DeregisterVehicleRequest(user_id=user_id, vehicle_id=vehicle_id)
    await client.call(client.user.DeregisterVehicle, request)


async def vehicles_of(client: Client, user_id: str, page_size: int = 0) -> list[str]:
    """The ids over all pages."""
    found, token = [], ""
    while True:
        request = ListVehiclesRequest(user_id=user_id, page_size=page_size, page_token=token)
        answer = await client.call(client.user.ListVehicles, request)
        found += [vehicle.vehicle_id for vehicle in answer.vehicles]
        token = answer.next_page_token
        if not token:
            return found


async def test_a_user_is_kept_as_sent_and_replaced_as_a_whole(
    shared_service: Service, unique: str
) -> None:
    """What is not sent again is not known any more; create_time stays."""
    client = shared_service.client
    first = await put_user(
        client,
        unique,
        time_zone="Europe/Oslo",
        currency_code="NOK",
        language="nb",
        country_code="NO",
    )
    assert ("Europe/Oslo", "NOK", "nb", "NO") == (
        first.time_zone,
        first.currency_code,
        first.language,
        first.country_code,
    )
    assert first == await get_user(client, unique)
    second = await put_user(client, unique, language="en")
    assert ("", "", "en", "") == (
        second.time_zone,
        second.currency_code,
        second.language,
        second.country_code,
    )
    assert first.create_time == second.create_time
    assert first.update_time.ToNanoseconds() < second.update_time.ToNanoseconds()


async def test_a_vehicle_is_kept_as_sent_and_replaced_by_its_user(
    shared_service: Service, unique: str
) -> None:
    """The user need not be known otherwise."""
    client = shared_service.client
    sent = good_request("RegisterVehicle").vehicle
    sent.vehicle_id, sent.user_id = f"{unique}-car", unique
    request = RegisterVehicleRequest(vehicle=sent)
    first = (await client.call(client.user.RegisterVehicle, request)).vehicle
    created = first.create_time
    assert first.HasField("create_time")
    second = await register(client, sent.vehicle_id, unique, max_ac_power_w=7_400)
    assert (7_400, 0, created) == (
        second.profile.max_ac_power_w,
        second.profile.battery_capacity_wh,
        second.create_time,
    )
    first.ClearField("create_time")
    assert sent == first


async def test_a_vehicle_of_another_user_cannot_be_taken(
    shared_service: Service, unique: str
) -> None:
    """ALREADY_EXISTS, and it stays as it was; once deregistered it is free."""
    client = shared_service.client
    await register(client, unique, "alice", max_ac_power_w=11_000)
    with pytest.raises(CallFailed) as failed:
        await register(client, unique, "bob")
    assert ("VEHICLE_OF_ANOTHER_USER", "ALREADY_EXISTS") == (
        failed.value.reason,
        failed.value.code.name,
    )
    assert "VEHICLE_NOT_FOUND" == await outcome(deregister(client, unique, "bob"))
    assert unique in await vehicles_of(client, "alice", 1000)
    await deregister(client, unique, "alice")
    assert "VEHICLE_NOT_FOUND" == await outcome(deregister(client, unique, "alice"))
    assert "bob" == (await register(client, unique, "bob")).user_id


async def test_of_users_who_register_a_vehicle_at_once_one_has_it(
    shared_service: Service, unique: str
) -> None:
    """The others hear that it is another's."""
    made = await outcomes(
        register(shared_service.client, unique, f"{unique}-{n}") for n in range(10)
    )
    assert {"OK": 1, "VEHICLE_OF_ANOTHER_USER": 9} == made


async def test_all_pages_together_are_all_vehicles_once(
    shared_service: Service, unique: str
) -> None:
    """By vehicle_id; another user's are not among them, nor is a page good for another user."""
    client = shared_service.client
    names = [f"{unique}-{n:02d}" for n in range(12)]
    for name in reversed(names):
        await register(client, name, unique)
    await register(client, f"{unique}-05x", f"{unique}-other")
    for size in (1, 5, 12, 1000, 0):
        assert names == await vehicles_of(client, unique, size)
    request = ListVehiclesRequest(user_id=unique, page_size=1)
    token = (await client.call(client.user.ListVehicles, request)).next_page_token
    foreign = ListVehiclesRequest(user_id=f"{unique}-other", page_token=token)
    assert "INVALID_PAGE_TOKEN" == await outcome(client.call(client.user.ListVehicles, foreign))


async def test_a_vehicle_alone_asks_for_the_offers_of_its_user(fresh_service: Service) -> None:
    """A gateway knows vehicles, not people."""
    client = fresh_service.client
    await set_tariff(client)
    await create(client, "night")
    await habit(client, "alice")
    assert "VEHICLE_NOT_FOUND" == await outcome(
        client.request_offers(vehicle_id="car", currency_code="NOK")
    )
    await register(client, "car", "alice")
    answer = await client.request_offers(vehicle_id="car", currency_code="NOK")
    assert ("alice", ["night"]) == (answer.user_id, [o.product_id for o in answer.offers])
    assert "VEHICLE_USER_MISMATCH" == await outcome(
        client.request_offers(user_id="bob", vehicle_id="car", currency_code="NOK")
    )
    await deregister(client, "car", "alice")
    assert "VEHICLE_NOT_FOUND" == await outcome(
        client.request_offers(vehicle_id="car", currency_code="NOK")
    )


async def test_a_change_of_user_or_vehicle_is_in_the_next_answer(fresh_service: Service) -> None:
    """The currency of the user, the type of the vehicle."""
    client = fresh_service.client
    await create(client, "drones", default_offer=True, conditions={"vehicle_types": ["DRONE"]})
    assert "INVALID_FIELD" == await outcome(client.request_offers(user_id="alice"))
    await put_user(client, "alice", currency_code="NOK")
    await register(client, "thing", "alice", type=VehicleType.VEHICLE_TYPE_CAR)
    assert [] == list((await client.request_offers(vehicle_id="thing")).offers)
    await register(client, "thing", "alice", type=VehicleType.VEHICLE_TYPE_DRONE)
    assert 1 == len((await client.request_offers(vehicle_id="thing")).offers)
    await put_user(client, "alice", currency_code="EUR")
    assert [] == list((await client.request_offers(vehicle_id="thing")).offers)


async def test_a_user_has_at_most_1000_vehicles(shared_service: Service, unique: str) -> None:
    """Also of calls at once; those there are can be replaced, and one that goes makes room."""
    client = shared_service.client
    first = await register(client, f"{unique}-first", unique)
    await fetch(
        shared_service.database_url,
        "INSERT INTO vehicles (vehicle_id, user_id, profile, create_time)"
        " SELECT vehicle_id || n, user_id, profile, create_time"
        " FROM vehicles, generate_series(2, 960) n WHERE vehicle_id = $1",
        first.vehicle_id,
    )
    found = await outcomes(register(client, f"{unique}-{n}", unique) for n in range(50))
    assert {"OK": 40, "INVALID_FIELD": 10} == found
    kept = await vehicles_of(client, unique)
    assert 1_000 == len(kept)
    with pytest.raises(CallFailed) as failed:
        await register(client, f"{unique}-more", unique)
    assert {"vehicle.user_id": "must have at most 1000 vehicles"} == failed.value.violations
    assert unique == (await register(client, kept[0], unique, max_ac_power_w=7_000)).user_id
    await register(client, f"{unique}-foreign", f"{unique}-other")
    foreign = await outcome(register(client, f"{unique}-foreign", unique))
    assert "VEHICLE_OF_ANOTHER_USER" == foreign
    await deregister(client, kept[0], unique)
    assert unique == (await register(client, f"{unique}-more", unique)).user_id
