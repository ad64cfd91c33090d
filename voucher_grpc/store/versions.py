"""The versions of what servers cache, and waiting for one."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Literal, NamedTuple

from voucher_grpc.store import queries
from voucher_grpc.store.driver import Connection

_SQL = queries.load("versions")

Name = Literal["catalogue", "locations"]
# Waits until this server answers from at least this version, a few seconds at most.
Reached = Callable[[Name, int], Awaitable[None]]


class Version(NamedTuple):
    """`unrecorded` are the changes among `number` that have not marked their rows."""

    number: int = -1
    unrecorded: int = -1

    def follows(self, before: "Version") -> bool:
        """Whether all that has changed since is found by the marked rows."""
        return self.unrecorded == before.unrecorded and self.number >= before.number


class Versions(NamedTuple):
    """All versions at one instant; `segments` is the version of the catalogue that they are of."""

    catalogue: Version
    locations: Version
    segments: int
    database_time: datetime


async def read_versions(connection: Connection) -> Versions:
    """The versions. Raises KeyError if a row is gone, which `verify` finds too."""
    rows = await connection.fetch(_SQL["all"])
    found = {row["name"]: Version(row["version"], row["unrecorded"]) for row in rows}
    return Versions(
        found["catalogue"],
        found["locations"],
        found["segments"].number,
        rows[0]["database_time"],
    )
