"""Users and their vehicles in the store."""

from collections.abc import Sequence

import asyncpg

from voucher_grpc.domain.places.document import (
    vehicle_profile_from_document,
    vehicle_profile_to_document,
)
from voucher_grpc.domain.places.location import Vehicle
from voucher_grpc.domain.users import User
from voucher_grpc.errors import Reason, Refusal, bad_field
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database

_SQL = queries.load("users")
MAX_VEHICLES_OF_A_USER = 1_000


def vehicle_from_row(row: asyncpg.Record) -> Vehicle:
    """A vehicle from its columns."""
    return Vehicle(
        row["vehicle_id"],
        row["user_id"],
        vehicle_profile_from_document(row["profile"]),
        row.get("create_time"),
    )


def _present(row: asyncpg.Record | None) -> asyncpg.Record:
    """The row of a statement that always returns one."""
    if row is None:
        raise LookupError("the statement returned no row")
    return row


class UserStore:
    """Users and vehicles."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def upsert(self, user: User) -> User:
        """Add or replace a user."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(
                _SQL["upsert_user"],
                user.user_id,
                user.time_zone,
                user.currency_code,
                user.language,
                user.country_code,
            )
        return User(**_present(row))

    async def get(self, user_id: str) -> User:
        """A user. Raises USER_NOT_FOUND."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_SQL["user"], user_id)
        if row is None:
            raise Refusal(Reason.USER_NOT_FOUND, f"user {user_id} is not known", user_id=user_id)
        return User(**row)

    async def register_vehicle(self, vehicle: Vehicle) -> Vehicle:
        """Register or replace a user's vehicle.

        Raises VEHICLE_OF_ANOTHER_USER, and BadInput for one more than a user may have.
        """
        async with self._database.transaction() as connection:
            await connection.execute(_SQL["lock_vehicles"], vehicle.user_id)
            row = _present(
                await connection.fetchrow(
                    _SQL["register_vehicle"],
                    vehicle.vehicle_id,
                    vehicle.user_id,
                    vehicle_profile_to_document(vehicle.profile),
                    MAX_VEHICLES_OF_A_USER,
                )
            )
        if not row["is_left"]:
            raise bad_field(
                "vehicle.user_id", f"must have at most {MAX_VEHICLES_OF_A_USER} vehicles"
            )
        if row["vehicle_id"] is None:
            raise Refusal(
                Reason.VEHICLE_OF_ANOTHER_USER, "the vehicle is registered to another user"
            )
        return vehicle_from_row(row)

    async def list_vehicles(self, user_id: str, after: str, limit: int) -> Sequence[Vehicle]:
        """Up to `limit` of a user's vehicles with ids greater than `after`."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["vehicles"], user_id, after, limit)
        return [vehicle_from_row(row) for row in rows]

    async def deregister_vehicle(self, user_id: str, vehicle_id: str) -> None:
        """Remove a user's vehicle. Raises VEHICLE_NOT_FOUND."""
        async with self._database.acquire() as connection:
            if not await connection.fetchval(_SQL["deregister_vehicle"], user_id, vehicle_id):
                raise Refusal(
                    Reason.VEHICLE_NOT_FOUND,
                    "the user has no such vehicle",
                    vehicle_id=vehicle_id,
                )

    async def owner_of(self, vehicle_id: str) -> str:
        """The user of a registered vehicle, "" for one that is not."""
        async with self._database.acquire() as connection:
            owner: str | None = await connection.fetchval(_SQL["owner_of_vehicle"], vehicle_id)
        return owner or ""
