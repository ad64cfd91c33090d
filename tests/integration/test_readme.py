"""The calls in README.md are run as they stand there, by the tools they are written for.

Each line of a fenced block that starts with `grpcurl ` is a call, in order, on a
server with the demo's data. 127.0.0.1:50051 is replaced by the test server's
address, and OFFER_ID by the first offer_id in the answers so far.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import Service, serving
from voucher_grpc.dev.demo.load import load_demo
from voucher_grpc.server.wiring import SERVICES

ROOT = Path(__file__).resolve().parent.parent.parent
README_TARGET = "127.0.0.1:50051"
# buf names fields as JSON does, grpcurl as the protos do.
OFFER_ID = re.compile(r'"offer(?:Id|_id)":\s*"([^"]+)"')
BUF = Path(sys.executable).parent / "buf"


def grpcurl_lines() -> list[str]:
    """The calls of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("grpcurl ")]


def grpcurl_program() -> str | None:
    """The one that `make grpcurl` builds, else the machine's."""
    built = ROOT / ".tools" / "grpcurl"
    return str(built) if built.exists() else shutil.which("grpcurl")


def as_buf_curl(arguments: list[str]) -> list[str]:
    """The arguments of a grpcurl call as buf curl takes them."""
    data = arguments[arguments.index("-d") + 1] if "-d" in arguments else None
    address, what = arguments[-2:]
    options = ["curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    if what == "list":
        return [*options, "--list-services", f"http://{address}"]
    return [*options, *(["-d", data] if data else []), f"http://{address}/{what}"]


@pytest_asyncio.fixture(loop_scope="session")
async def demo_service(fresh_database: str) -> AsyncIterator[Service]:
    """A server with the data that the README assumes."""
    async with serving(fresh_database) as service:
        await load_demo(service.client, datetime.now(UTC), generic_users=0)
        yield service


async def run(program: str | Path, arguments: list[str], cache: Path) -> str:
    """Run a call; what it prints."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "BUF_CACHE_DIR": str(cache)},
    )
    output, errors = await asyncio.wait_for(process.communicate(), 300)
    assert 0 == process.returncode, f"{shlex.join(arguments)}: {errors.decode()}"
    return output.decode()


async def answers(service: Service, program: str | Path, cache: Path, *, buf: bool) -> list[str]:
    """What the calls of the README answer, in order; each must succeed."""
    found: list[str] = []
    for line in grpcurl_lines():
        offer_ids = OFFER_ID.findall("".join(found))
        call = line.replace(README_TARGET, service.target)
        if "OFFER_ID" in call:
            call = call.replace("OFFER_ID", offer_ids[0])
        arguments = shlex.split(call)[1:]
        found.append(await run(program, as_buf_curl(arguments) if buf else arguments, cache))
    return found


def assert_both_signals_are_shown(found: list[str]) -> None:
    """The README's calls list the services, ask for offers, and buy one."""
    assert set(SERVICES) <= set(found[0].split())
    answered = [json.loads(text) for text in found[1:]]
    assert any(answer.get("offers") for answer in answered)
    assert any(answer.get("pass") for answer in answered)


async def test_the_grpcurl_calls_of_the_readme_work(demo_service: Service, tmp_path: Path) -> None:
    """With the real grpcurl, as a reader would paste them."""
    program = grpcurl_program()
    if program is None:
        pytest.skip("grpcurl is neither built (`make grpcurl`) nor on PATH")
    assert_both_signals_are_shown(await answers(demo_service, program, tmp_path, buf=False))


async def test_the_same_calls_work_with_buf_curl(demo_service: Service, tmp_path: Path) -> None:
    """Another client that knows the API from reflection only."""
    assert_both_signals_are_shown(await answers(demo_service, BUF, tmp_path, buf=True))
