"""`python -m benchmarks.credentials`: what it costs to know who calls.

The same service four times: in clear, with a token over TLS, with a client's certificate,
and with both. One client, rounds that alternate; the goal is on the CPU of server and
Postgres a RequestOffers, both against in clear. Also what a token costs that is not known
yet. Writes build/bench_credentials.json.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import servers
from benchmarks.load import NO_CREDENTIALS, REQUEST_OFFERS, Credentials, client
from benchmarks.measure import Bench, Figures, Target
from benchmarks.processes import Child, RunFailed
from benchmarks.turns import Sizes, Turns
from benchmarks.world import make_world, priced
from tests.integration.credentials import Authority
from voucher_grpc.access.principal import ClaimedNames
from voucher_grpc.access.roles import Role
from voucher_grpc.dev.issuer import ISSUER, DevelopmentIssuer
from voucher_grpc.dev.postgres import throw_away_postgres
from voucher_grpc.edge.authentication.token_keys import TokenKeys
from voucher_grpc.edge.authentication.tokens import TokenRules, TokenVerifier

GOAL = 1.3
_AUDIENCE = "voucher-grpc"


def _ways(folder: Path) -> dict[str, tuple[dict[str, str], Credentials]]:
    """Name -> (settings of the server, credentials of the client)."""
    authority, issuer = Authority(), DevelopmentIssuer(folder)
    certificate, key = authority.issue("server").write(folder, "server")
    (folder / "ca.pem").write_bytes(authority.pem)
    own = authority.issue("gateway-7", "urn:voucher-grpc:role:gateway", "urn:voucher-grpc:user:*")
    token = gateway_token(issuer)
    tls = {"tls_certificate_file": str(certificate), "tls_key_file": str(key)}
    tokens = {"token_keys": str(issuer.key_set), "token_issuer": ISSUER}
    certificates = {"tls_client_ca_file": str(folder / "ca.pem")}
    return {
        "in clear": ({}, NO_CREDENTIALS),
        "TLS, token": ({**tls, **tokens}, Credentials(authority.pem, token=token)),
        "certificate": (
            {**tls, **certificates},
            Credentials(authority.pem, own.chain, own.key),
        ),
        "certificate, token": (
            {**tls, **certificates, **tokens},
            Credentials(authority.pem, own.chain, own.key, token),
        ),
    }


def gateway_token(issuer: DevelopmentIssuer, subject: str = "gateway-7") -> str:
    """The token of a gateway that may act for all users."""
    named = ClaimedNames(users=("*",), vehicles=("*",))
    return issuer.token(subject, [Role.GATEWAY], named, audience=_AUDIENCE, lifetime_s=36_000)


def _measure(url: str, sizes: Sizes, folder: Path) -> dict[str, Figures]:
    facts = asyncio.run(servers.database_facts(url))
    with ExitStack() as stack:
        load = stack.enter_context(Child("client", client, priced(sizes.products)))
        turns = Turns(sizes, Bench(load, facts["postmaster_pid"]), Console(stderr=True))
        measures = {}
        for name, (settings, credentials) in _ways(folder).items():
            child = stack.enter_context(Child(name, servers.service, url, settings))
            target = Target(
                name,
                child,
                child.receive(),
                sizes.users,
                uses_postgres=True,
                credentials=credentials,
            )
            measures[name] = partial(turns.round, target, REQUEST_OFFERS)
            turns.say(f"{name}: serves")
        return turns.alternate(measures)


async def _unknown_token_us(folder: Path, tokens: int = 500) -> float:
    """Microseconds for a token that was not seen before: a signature of Ed25519."""
    issuer = DevelopmentIssuer(folder)
    made = [gateway_token(issuer, f"gateway-{number}") for number in range(tokens)]
    keys = TokenKeys(str(issuer.key_set), 300)
    await keys.load()
    verifier = TokenVerifier(keys, TokenRules(ISSUER, _AUDIENCE, 30))
    began_s = time.perf_counter()
    for token in made:
        await verifier.verify(token)
    return (time.perf_counter() - began_s) / tokens * 1e6


def _show(found: dict[str, Figures], unknown_us: float) -> None:
    table = Table(title="what it costs to know who calls (RequestOffers)")
    for column in ("", "calls/s", "CPU ms a call", "against in clear", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if not column else "right")
    clear = found["in clear"]
    for name, figures in found.items():
        table.add_row(
            name,
            f"{figures.calls_per_s:.0f}",
            f"{figures.cpu_ms_per_call:.3f}",
            f"{figures.cpu_ms_per_call / clear.cpu_ms_per_call:.2f}",
            f"{figures.p50_ms:.1f}",
            f"{figures.p99_ms:.1f}",
        )
    console = Console()
    console.print(table)
    console.print(f"a token not seen before: {unknown_us:.0f} us more", highlight=False)


def main() -> int:
    """0 if all was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.credentials", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute, smaller sizes")
    parser.add_argument("--json", type=Path, default=Path("build/bench_credentials.json"))
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    sizes = Sizes(
        users=1_000 if quick else 10_000,
        products=100,
        seconds=0.8 if quick else 3.0,
        rounds=2 if quick else 5,
        concurrency=64,
        quick=quick,
        scale=False,
        passes=0,
    )
    try:
        with throw_away_postgres() as url, tempfile.TemporaryDirectory() as folder:
            asyncio.run(make_world(url, sizes.users, sizes.products))
            found = _measure(url, sizes, Path(folder))
            unknown_us = asyncio.run(_unknown_token_us(Path(folder)))
    except RunFailed as error:
        Console(stderr=True).print(f"The run failed: {error}", style="red", markup=False)
        return 1
    clear = found["in clear"].cpu_ms_per_call
    results: dict[str, Any] = {name: figures.as_dict() for name, figures in found.items()}
    results["cpu_ratio"] = round(found["certificate, token"].cpu_ms_per_call / clear, 4)
    results["unknown_token_us"] = round(unknown_us, 1)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    _show(found, unknown_us)
    return 0


if __name__ == "__main__":
    sys.exit(main())
