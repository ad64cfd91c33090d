"""The forecast's parameters: those an operator installed, else those that are shipped."""

from voucher_grpc.domain.tendencies.forecast import (
    Parameters,
    default_parameters,
    parameters_from_bytes,
    parameters_to_bytes,
)
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database

_SQL = queries.load("parameters")


async def active_parameters(database: Database) -> Parameters:
    """The parameters by which forecasts are made."""
    async with database.acquire() as connection:
        data = await connection.fetchval(_SQL["active"])
    return default_parameters() if data is None else parameters_from_bytes(data)


async def install_parameters(database: Database, parameters: Parameters) -> None:
    """Make parameters the active ones; servers take them at their next start."""
    async with database.transaction() as connection:
        await connection.execute(_SQL["deactivate"])
        await connection.execute(
            _SQL["install"], parameters.version, parameters_to_bytes(parameters)
        )
