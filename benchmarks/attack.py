"""`python -m benchmarks.attack [--quick] [KIND ...]`: what attacks over HTTP/2 do to a server.

Each kind of attack (`attackers.py`) goes on for 90 s against the service, and for as long against a
bare gRPC server with gRPC's own limits; both are new processes. Meanwhile well-behaved clients
(`bystanders.py`) call both. Memory is read twice a second, until 30 s after the attack. With
`--front` both have the limits of deploy/nftables.conf in front (Linux, as root). Writes
build/bench_attack.json and a drawing. The exit code is 1 if a goal is missed.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from benchmarks import servers
from benchmarks.attackers import KINDS, Attack, attacker
from benchmarks.bystanders import Served, Watch, bystanders
from benchmarks.credentials import gateway_token
from benchmarks.drawing import draw_attack
from benchmarks.load import REQUEST_OFFERS, Requests, Samples, client
from benchmarks.processes import Child, Pipe, RunFailed, memory_mb
from benchmarks.report import write_json
from benchmarks.world import make_world, priced
from voucher_grpc.dev.issuer import ISSUER, DevelopmentIssuer
from voucher_grpc.dev.postgres import throw_away_postgres

USERS, PRODUCTS = 2_000, 100
# The goals: growth of memory in the last third, what is left of it afterwards, how much slower
# others are than beside the bare server, and how many of their calls are OK.
MOST_GROWTH, MOST_LEFT_MB, MOST_P99_RATIO, LEAST_OK = 0.10, 50.0, 2.0, 0.99
_SAMPLE_S = 0.5
_RULES = Path(__file__).parent.parent / "deploy" / "nftables.conf"
Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of warming up, of the attack, and of looking on afterwards."""

    warm_s: float
    attack_s: float
    after_s: float


FULL, QUICK = Times(8, 90, 30), Times(4, 15, 10)


def bare(pipe: Pipe, answer: bytes) -> None:
    """A server that does nothing but answer, with the limits that gRPC has by itself."""
    uvloop.run(_bare(pipe, answer))


async def _bare(pipe: Pipe, answer: bytes) -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers = {REQUEST_OFFERS: servers.echo_handler(answer)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(servers.SERVICE, handlers),)
    )
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await servers.answer_questions(pipe, lambda _: None)
    await server.stop(1)


@contextmanager
def limits_in_front(port: int) -> Iterator[None]:
    """The packet filter's limits on connections to a port. Raises RunFailed without nft."""
    nft = shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin")
    if nft is None:
        raise RunFailed("--front needs nft (package nftables)")
    done = subprocess.run(
        [nft, "-D", f"port={port}", "-f", str(_RULES)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunFailed(f"nft: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run([nft, "delete", "table", "inet", "voucher_grpc"], check=True)


class Scene:
    """The clients, and a way to start the two servers."""

    def __init__(self, stack: ExitStack, url: str, folder: Path, *, front: bool) -> None:
        self._url = url
        self.front = front
        products = priced(PRODUCTS)
        self.attacker = stack.enter_context(Child("attacker", attacker))
        self.bystanders = stack.enter_context(Child("bystanders", bystanders, products))
        issuer = DevelopmentIssuer(folder)
        self._settings = {"token_keys": str(issuer.key_set), "token_issuer": ISSUER}
        self._metadata = (("authorization", f"Bearer {gateway_token(issuer)}"),)
        load = stack.enter_context(Child("client", client, products))
        with Child("service", servers.service, url) as service:
            samples = load.ask(Samples(service.receive(), USERS))
        self._answer: bytes = samples[REQUEST_OFFERS]
        [self.request] = Requests(USERS, products).make(REQUEST_OFFERS, 1)

    def start(self, name: str, kind: str) -> tuple[Child, tuple[tuple[str, str], ...]]:
        """A server, and the credentials that it wants of the bystanders.

        Watching health is for strangers too; so there it is told who the others are. Elsewhere
        nobody needs credentials, so that the attacker's calls come as far as they can.
        """
        if name == "bare":
            return Child("bare", bare, self._answer), ()
        if kind == "watches":
            return Child("service", servers.service, self._url, self._settings), self._metadata
        return Child("service", servers.service, self._url), ()


def measure(scene: Scene, name: str, kind: str, times: Times) -> Results:
    """One kind of attack on one server. Raises RunFailed if the server ends."""
    child, metadata = scene.start(name, kind)
    with child as server, ExitStack() as stack:
        port = server.receive()
        if scene.front:
            stack.enter_context(limits_in_front(port))
        calm: dict[str, Served] = scene.bystanders.ask(Watch(port, USERS, times.warm_s, metadata))
        idle_mb = memory_mb(server.pid)
        began_s = time.monotonic()
        scene.attacker.send(Attack(kind, port, times.attack_s, scene.request))
        scene.bystanders.send(Watch(port, USERS, times.attack_s, metadata))
        memory = _memory(server.pid, began_s, times.attack_s)
        during = scene.bystanders.receive()
        scene.attacker.receive()
        scene.bystanders.send(Watch(port, USERS, times.after_s, metadata))
        memory += _memory(server.pid, began_s, times.attack_s + times.after_s)
        after = scene.bystanders.receive()
    return {
        "idle_mb": round(idle_mb, 1),
        "most_mb": max(mb for _, mb in memory),
        "growth_in_last_third": _growth_in_last_third(memory, times.attack_s),
        "left_mb": round(memory[-1][1] - idle_mb, 1),
        "calm": _figures(calm),
        "during": _figures(during),
        "after": _figures(after),
        "memory_mb": memory,
    }


def _memory(pid: int, began_s: float, until_s: float) -> list[tuple[float, float]]:
    """(seconds, MB) until a time after the beginning."""
    found = []
    while (at_s := time.monotonic() - began_s) < until_s:
        found.append((round(at_s, 1), round(memory_mb(pid), 1)))
        time.sleep(_SAMPLE_S)
    return found


def _growth_in_last_third(memory: Sequence[tuple[float, float]], attack_s: float) -> float:
    """From the second third's mean of its last part to the third's, as a share."""

    def around(end_s: float) -> float:
        return mean(mb for at_s, mb in memory if end_s * 0.89 <= at_s <= end_s)

    return round(around(attack_s) / around(attack_s * 2 / 3) - 1, 3)


def _figures(served: dict[str, Served]) -> Results:
    together = Served()
    for one in served.values():
        together.took_s += one.took_s
        together.failed += one.failed
    return {
        name: {
            "calls": len(one.took_s) + one.failed.total(),
            "ok_share": round(one.ok_share, 4),
            "p50_ms": round(one.quantile_ms(0.5), 1),
            "p99_ms": round(one.quantile_ms(0.99), 1),
            "failed": dict(one.failed),
        }
        for name, one in {**served, "all": together}.items()
    }


def judge(results: Results) -> Results:
    """For each goal whether it is met."""
    ours, theirs = results["service"], results["bare"]
    during = ours["during"]["all"]
    ratio = during["p99_ms"] / max(0.1, theirs["during"]["all"]["p99_ms"])
    return {
        "growth_in_last_third": [ours["growth_in_last_third"], MOST_GROWTH],
        "left_mb": [ours["left_mb"], MOST_LEFT_MB],
        "p99_ratio_to_bare": [round(ratio, 2), MOST_P99_RATIO],
        "not_ok_share": [round(1 - during["ok_share"], 4), round(1 - LEAST_OK, 4)],
    }


def show(results: dict[str, Results], console: Console) -> None:
    """A row for each attack and server."""
    table = Table(
        *("attack", "server", "idle MB", "most", "last third", "left"),
        *("others' p99 before", "during", "after", "OK during", "after"),
    )
    for kind, both in results.items():
        for name in ("service", "bare"):
            one = both[name]
            table.add_row(
                kind,
                name,
                f"{one['idle_mb']:.0f}",
                f"{one['most_mb']:.0f}",
                f"{one['growth_in_last_third']:+.1%}",
                f"{one['left_mb']:+.0f}",
                *(f"{one[when]['all']['p99_ms']:.0f} ms" for when in ("calm", "during", "after")),
                *(f"{one[when]['all']['ok_share']:.2%}" for when in ("during", "after")),
            )
    console.print(table)


def run(
    url: str, kinds: Sequence[str], times: Times, console: Console, *, front: bool
) -> dict[str, Results]:
    """All kinds. Raises RunFailed."""
    results: dict[str, Results] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scene = Scene(stack, url, folder, front=front)
        for kind in kinds:
            both: Results = {}
            for name in ("service", "bare"):
                console.print(f"{kind} on {name}, {times.attack_s:.0f} s ...", highlight=False)
                both[name] = measure(scene, name, kind, times)
            results[kind] = {**both, "goals": judge(both)}
            show({kind: both}, console)
    return results


def main() -> int:
    """0 if all goals are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--quick", action="store_true", help="15 s for each attack: a glimpse")
    parser.add_argument("--front", action="store_true", help="limit connections by nftables")
    parser.add_argument("--json", type=Path, default=Path("build/bench_attack.json"))
    arguments = parser.parse_args()
    unknown = set(arguments.kinds) - set(KINDS)
    if unknown:
        parser.error(f"unknown kinds {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    console = Console(stderr=True, width=150)
    times = QUICK if arguments.quick else FULL
    try:
        with throw_away_postgres() as url:
            asyncio.run(make_world(url, USERS, PRODUCTS))
            results = run(url, arguments.kinds or KINDS, times, console, front=arguments.front)
    except RunFailed as error:
        console.print(f"The run failed: {error}", style="red", markup=False)
        return 1
    date = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"date": date, "seconds": times.attack_s, "front": arguments.front}
    write_json({**facts, "attacks": results}, arguments.json)
    draw_attack(results, times.attack_s, arguments.json.with_suffix(".png"))
    missed = [
        f"{kind}: {name} is {value}, at most {most} is the goal"
        for kind, both in results.items()
        for name, (value, most) in both["goals"].items()
        if value > most
    ]
    show(results, console)
    console.print("\n".join(missed) or "all goals are met", highlight=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
