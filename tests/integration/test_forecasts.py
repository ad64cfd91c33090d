"""Forecasts in the store: made when sessions arrive, small, and the same after a rebuild."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import Service, serving
from tests.integration.operating import until
from tests.integration.shop import create, fetch, habit, sessions, set_tariff
from voucher_grpc.domain.tendencies.forecast import (
    FORECAST_BYTES,
    default_parameters,
    parameters_to_bytes,
)
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import DatabaseOptions
from voucher_grpc.store.parameters import active_parameters
from voucher_grpc.use_cases.record_sessions import RecordSessions


async def row(database_url: str, user_id: str) -> Any:
    """A user's tendency as it is kept."""
    query = "SELECT sessions, state, forecast FROM tendencies WHERE user_id = $1"
    return (await fetch(database_url, query, user_id))[0]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `voucher-grpc`."""
    line = [sys.executable, "-m", "voucher_grpc.cli", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=900)


async def test_a_forecast_is_made_when_sessions_arrive(fresh_service: Service) -> None:
    """And the whole row stays under 2 KB."""
    await habit(fresh_service.client, "alice")
    kept = await row(fresh_service.database_url, "alice")
    assert FORECAST_BYTES == len(kept["forecast"])
    size = "SELECT sum(pg_column_size(t.*)) FROM tendencies t"
    assert (await fetch(fresh_service.database_url, size))[0][0] < 2048


async def test_a_rebuild_gives_the_same_numbers(fresh_service: Service) -> None:
    """From the sessions alone, to 1e-9; the command says for how many users."""
    for user in ("alice", "bob", "carol"):
        await habit(fresh_service.client, user, energy_wh=5_000 + 1_000 * len(user))
    before = await row(fresh_service.database_url, "bob")
    done = command("tendencies", "rebuild", "--database-url", fresh_service.database_url)
    assert (0, "3 users rebuilt\n0 segments made\n") == (done.returncode, done.stdout)
    after = await row(fresh_service.database_url, "bob")
    assert before["sessions"] == after["sessions"]
    np.testing.assert_allclose(
        np.frombuffer(before["state"], "<f8"), np.frombuffer(after["state"], "<f8"), rtol=1e-9
    )
    assert before["forecast"] == after["forecast"]


async def test_a_tendency_of_another_layout_is_rebuilt_by_the_next_session(
    fresh_service: Service,
) -> None:
    """Until then it says nothing, and nothing breaks."""
    client, url = fresh_service.client, fresh_service.database_url
    await habit(client, "alice", days=range(2, 60))
    await fetch(url, "UPDATE tendencies SET state = decode('00', 'hex')")
    assert "alice" == (await client.request_offers(user_id="alice", currency_code="NOK")).user_id
    await client.record_sessions([sessions("alice", days=[1])])
    kept = await row(url, "alice")
    assert (59, 8 * 185) == (kept["sessions"], len(kept["state"]))


async def test_a_new_user_is_drawn_to_what_is_usual_for_the_kind(fresh_service: Service) -> None:
    """Two short sessions say little; those of the country charge 300 kWh a month."""
    client, url = fresh_service.client, fresh_service.database_url
    await set_tariff(client)
    await create(client, "month", default_offer=True)
    await asyncio.gather(*(habit(client, f"user-{n}") for n in range(25)))
    await habit(client, "new", days=[1, 2], energy_wh=2_000)
    await habit(client, "old", days=[2, 40], energy_wh=2_000)

    async def expected_kwh(user_id: str) -> float:
        answer = await client.request_offers(user_id=user_id, currency_code="NOK")
        return answer.pay_as_you_go.energy_wh_per_30_days / 1000

    before = {user: await expected_kwh(user) for user in ("new", "old")}
    done = command("tendencies", "segments", "--database-url", url)
    # Of the population and of the country; nobody has a vehicle or a wish.
    assert (0, "2 segments made\n") == (done.returncode, done.stdout), done.stderr
    assert before["new"] < 50

    async def is_drawn() -> bool:
        return 2 * before["new"] < await expected_kwh("new") < 350

    await until(is_drawn)  # the server reads what another process has changed
    assert before["old"] == await expected_kwh("old")


async def test_installed_parameters_are_the_active_ones(
    fresh_database: str, tmp_path: Path
) -> None:
    """In Postgres, for every server that starts; a file that is none is refused."""
    other = replace(default_parameters(), version="of our own")
    path = tmp_path / "own.npz"
    path.write_bytes(parameters_to_bytes(other))
    done = command("tendencies", "install", str(path), "--database-url", fresh_database)
    assert 0 == done.returncode, done.stderr
    async with Database.open(DatabaseOptions(fresh_database, 2, 5.0, 10.0, 100)) as database:
        active = await active_parameters(database)
        assert "of our own" == active.version
        assert isinstance(RecordSessions(database, active), RecordSessions)
    async with serving(fresh_database) as service:
        await habit(service.client, "alice")
        assert FORECAST_BYTES == len((await row(fresh_database, "alice"))["forecast"])
    path.write_bytes(b"nonsense")
    refused = command("tendencies", "install", str(path), "--database-url", fresh_database)
    assert (2, 1) == (refused.returncode, len(refused.stderr.splitlines()))
