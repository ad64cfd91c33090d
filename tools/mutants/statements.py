"""Which SQL statements a process executes: a plugin of coverage.

coverage loads it in every process of a recorded run, those that tests start included; their test
is the one that ran when they were started.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "MUTANTS_FOLDER"
TEST_VARIABLE = "MUTANTS_TEST"
_METHODS = ("cursor", "execute", "executemany", "fetch", "fetchrow", "fetchval", "prepare")

_told: set[tuple[str, str]] = set()


def coverage_init(registry: object, options: object) -> None:
    """Called by coverage in each process: from now on statements are told."""
    try:
        import asyncpg
    except ImportError:
        return  # a process of the client alone
    for method in _METHODS:
        _wrap(asyncpg.Connection, method)


def _wrap(connection: Any, method: str) -> None:
    original = getattr(connection, method)

    def recorded(self: object, query: str, *args: object, **options: object) -> object:
        _tell(query)
        return original(self, query, *args, **options)

    setattr(connection, method, recorded)


def _tell(query: str) -> None:
    queries = sys.modules.get("voucher_grpc.store.queries")
    name = queries.NAMES.get(query) if queries is not None else None
    entry = (os.environ.get(TEST_VARIABLE, ""), name or "")
    if name and entry not in _told:
        _told.add(entry)
        # At once, since the process may be killed.
        with (folder() / f"statements.{os.getpid()}").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def folder() -> Path:
    return Path(os.environ[FOLDER_VARIABLE])
