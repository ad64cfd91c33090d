"""A real Prometheus reads the metrics, and known expressions of others find what they look for."""

import asyncio
import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Service
from tests.integration.operating import PATIENCE_S, until
from voucher_grpc.client import CallFailed
from voucher_grpc.telemetry.metrics import code_label

ROOT = Path(__file__).resolve().parents[2]
# The shape of the gRPC alerts of the etcd mixin: failed calls as a share of all, by method.
FAILED = (
    "Unknown|FailedPrecondition|ResourceExhausted|Internal|Unavailable|DataLoss|DeadlineExceeded"
)


def share_of_codes(codes: str) -> str:
    """The percentage of calls that ended with one of the codes."""
    failed = f'sum(rate(grpc_server_handled_total{{grpc_code=~"{codes}"}}[1m]))'
    every = "sum(rate(grpc_server_handled_total[1m]))"
    without = "without (grpc_type, grpc_code)"
    return f"100 * {failed} {without} / {every} {without}"


def program(name: str) -> str:
    """The path of a program of Prometheus, or a skip with the reason."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install prometheus)")
    return found


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def asked(port: int, expression: str) -> dict[str, float]:
    """The value of an expression by `grpc_method`; empty while there is none."""
    query = urllib.parse.urlencode({"query": expression})
    url = f"http://127.0.0.1:{port}/api/v1/query?{query}"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as page:
            found: dict[str, Any] = json.load(page)
    except OSError:
        return {}
    result = found["data"]["result"]
    return {
        one["metric"].get("grpc_method", ""): float(one["value"][1])
        for one in result
        if one["value"][1] != "NaN"
    }


@pytest_asyncio.fixture
async def prometheus(fresh_service: Service, tmp_path: Path) -> AsyncIterator[int]:
    """The port of a Prometheus that reads the service's metrics."""
    path, port = program("prometheus"), free_port()
    scraped = f"127.0.0.1:{fresh_service.server.metrics_port}"
    configuration = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
        "scrape_configs": [{"job_name": "v", "static_configs": [{"targets": [scraped]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(configuration))
    process = await asyncio.create_subprocess_exec(
        path,
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


async def test_alerts_on_codes_of_other_grpc_servers_find_ours(
    fresh_service: Service, prometheus: int
) -> None:
    """Dashboards and alerts exist for the codes as go-grpc-prometheus writes them."""
    client = fresh_service.client

    async def some_calls() -> None:
        await client.request_offers(user_id="alice", currency_code="NOK")
        with pytest.raises(CallFailed):
            await client.request_offers()
        with pytest.raises(CallFailed):
            await client.get_pass("alice", str(uuid.uuid4()))

    found: dict[str, dict[str, float]] = {}

    async def both_seen() -> bool:
        # Calls go on until two scrapes have seen some of them.
        await some_calls()
        for codes in ("InvalidArgument", "NotFound", FAILED):
            found[codes] = await asyncio.to_thread(asked, prometheus, share_of_codes(codes))
        invalid, missing = found["InvalidArgument"], found["NotFound"]
        return invalid.get("RequestOffers", 0) > 0 and missing.get("GetPass", 0) > 0

    await until(both_seen)
    assert 0 < found["InvalidArgument"]["RequestOffers"] < 100
    assert 100 == pytest.approx(found["NotFound"]["GetPass"])
    # None of them is a failure of the server: the alert does not fire.
    assert not [share for share in found[FAILED].values() if share > 0]


@pytest.mark.parametrize(
    ("code_name", "label"),
    [
        ("OK", "OK"),
        ("CANCELLED", "Canceled"),
        ("UNKNOWN", "Unknown"),
        ("INVALID_ARGUMENT", "InvalidArgument"),
        ("DEADLINE_EXCEEDED", "DeadlineExceeded"),
        ("NOT_FOUND", "NotFound"),
        ("ALREADY_EXISTS", "AlreadyExists"),
        ("PERMISSION_DENIED", "PermissionDenied"),
        ("RESOURCE_EXHAUSTED", "ResourceExhausted"),
        ("FAILED_PRECONDITION", "FailedPrecondition"),
        ("ABORTED", "Aborted"),
        ("OUT_OF_RANGE", "OutOfRange"),
        ("UNIMPLEMENTED", "Unimplemented"),
        ("INTERNAL", "Internal"),
        ("UNAVAILABLE", "Unavailable"),
        ("DATA_LOSS", "DataLoss"),
        ("UNAUTHENTICATED", "Unauthenticated"),
    ],
)
def test_codes_are_written_as_go_writes_them(code_name: str, label: str) -> None:
    """All of google.golang.org/grpc/codes."""
    assert label == code_label(code_name)


async def test_no_times_of_creation_are_exposed(fresh_service: Service) -> None:
    """They double the series of each counter and nobody asks for them."""
    await fresh_service.client.request_offers(user_id="alice", currency_code="NOK")
    url = f"http://127.0.0.1:{fresh_service.server.metrics_port}/metrics"
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=PATIENCE_S) as page:
        text = page.read().decode()
    assert "grpc_server_handled_total{" in text
    assert "_created" not in text


def test_the_rules_are_ones_that_prometheus_takes() -> None:
    """A rule with a mistake would stop Prometheus at its next start."""
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(ROOT / "deploy" / "prometheus.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
