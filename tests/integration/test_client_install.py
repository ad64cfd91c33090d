"""What `pip install voucher-grpc` gives: the client and the stubs, and the command by an extra."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import Service
from tests.integration.shop import create

ROOT = Path(__file__).resolve().parent.parent.parent
CALL = """
import asyncio, sys
from voucher_grpc.client import Client

async def main():
    async with Client(sys.argv[1]) as client:
        answer = await client.request_offers(user_id=sys.argv[2], currency_code="NOK")
        print(answer.user_id, len(answer.offers))

asyncio.run(main())
"""
FAST = ("--no-compile", "--only-binary=:all:")
# Nothing of the server may come along with the command, and nothing of the command with the client.
SERVER_ONLY = ("asyncpg", "numpy", "prometheus_client", "pydantic_settings", "structlog", "uvloop")
COMMAND_ONLY = ("pyyaml", "rich", "typer", "tzdata")
LISTING = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"


async def run(*command: str | Path) -> tuple[int | None, str]:
    """Run a command away from the checkout; its exit code and what it said."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd="/",
        env=environment,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 900)
    return process.returncode, output.decode()


async def built(folder: Path) -> Path:
    """The wheel; skips where there is no index."""
    python = Path(sys.executable)
    code, said = await run(
        *(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    )
    if code and _no_index(said):
        pytest.skip("no package index can be reached, so the wheel cannot be built")
    assert 0 == code, said
    return folder / next(name for name in os.listdir(folder) if name.endswith(".whl"))


async def install(wheel: str, there: Path) -> None:
    """Install into an environment by the pip of this one: it needs none of its own."""
    pip = (Path(sys.executable), "-m", "pip", "--python", there)
    code, said = await run(*pip, "install", "--quiet", *FAST, wheel)
    if code and _no_index(said):
        pytest.skip("no package index can be reached, so the wheel cannot be installed")
    assert 0 == code, said


async def distributions(python: Path) -> set[str]:
    """What is installed there."""
    _, said = await run(python, "-c", LISTING)
    return {name.replace("-", "_") for name in said.split()}


def _no_index(said: str) -> bool:
    signs = ("Could not find a version", "No matching distribution", "NewConnectionError")
    return any(sign in said for sign in signs)


async def test_a_client_install_calls_a_server(
    shared_service: Service, unique: str, tmp_path: Path
) -> None:
    """The wheel without extras, with the newest gRPC and protobuf there are, is enough to call.

    The command comes with an extra and says so; a server command in it says which it needs.
    """
    await create(shared_service.client, f"{unique}-standard", default_offer=True)
    wheel = await built(tmp_path)
    assert (0, "") == await run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    python, command = programs / "python", programs / "voucher-grpc"
    await install(str(wheel), python)

    code, said = await run(python, "-c", CALL, shared_service.target, unique)
    assert (0, f"{unique} 1") == (code, said.strip().splitlines()[-1]), said
    assert not (await distributions(python)).intersection((*SERVER_ONLY, *COMMAND_ONLY))

    code, said = await run(command, "--version")
    assert 2 == code, said
    assert "pip install 'voucher-grpc[cli]'" in said
    assert 1 == len(said.strip().splitlines()), said

    await install(f"{wheel}[cli]", python)
    code, said = await run(command, "--version")
    assert (0, "voucher-grpc ") == (code, said[:13])

    there = ("--target", shared_service.target, "--currency", "NOK")
    code, said = await run(command, "request-offers", "--user", unique, *there)
    assert 0 == code, said
    assert f"{unique}-standard" in said

    code, said = await run(command, "serve")
    assert 2 == code, said
    assert "pip install 'voucher-grpc[server]'" in said
    assert 1 == len(said.strip().splitlines()), said
    code, said = await run(command, "dev")
    assert 2 == code, said
    assert "pip install 'voucher-grpc[server,embedded]'" in said
    assert not (await distributions(python)).intersection(SERVER_ONLY)
