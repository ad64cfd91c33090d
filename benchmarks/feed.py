"""`python -m benchmarks.feed [--quick]`: a national feed of locations and tariffs.

70,000 locations with 100,000 EVSEs and 12,000 tariffs, 10,500 of one party, are made up as
operators publish them, one in a thousand broken. The command imports them as a process of its
own; what it takes is measured, and whether each broken one is in its report. RequestOffers is
measured before and after. Prints a table, writes build/feed.json.
"""

import argparse
import asyncio
import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import servers
from benchmarks.load import Round, Samples, client
from benchmarks.measure import Bench, Target
from benchmarks.processes import Child, memory_mb
from benchmarks.report import write_json
from benchmarks.world import make_world, priced
from voucher_grpc.dev.postgres import throw_away_postgres

USERS, PRODUCTS = 2_000, 100
_BROKEN_EACH = 1_000
_MIB = 2**20


class Sizes(NamedTuple):
    """How many there are; `of_one_party` tariffs, the others are of 30 parties."""

    locations: int = 70_000
    evses: int = 100_000
    tariffs: int = 12_000
    of_one_party: int = 10_500


class Imported(NamedTuple):
    """What one import took, and what it said."""

    wall_s: float
    client_peak_mib: float
    server_mib: float
    said: str
    broken: int
    reported: int


def tariffs(sizes: Sizes, rng: random.Random) -> Iterator[tuple[dict[str, Any], bool]]:
    """(a tariff, whether something of it is broken)."""
    for number in range(sizes.tariffs):
        large = number < sizes.of_one_party
        party = "BIG" if large else f"P{number % 30:02}"
        quarters = 96 if number % 50 == 0 else 0
        elements = [_element(rng, quarter) for quarter in range(quarters)] or [
            _element(rng) for _ in range(rng.randrange(1, 4))
        ]
        tariff: dict[str, Any] = {
            "country_code": "NL",
            "party_id": party,
            "id": f"T{number:05}",
            "currency": "EUR",
            "type": "REGULAR",
            "elements": elements,
            "last_updated": "2026-11-01T00:00:00Z",
        }
        broken = number % _BROKEN_EACH == 7
        if broken:
            _break_tariff(tariff, number // _BROKEN_EACH)
        yield tariff, broken


def _element(rng: random.Random, quarter: int | None = None) -> dict[str, Any]:
    price = {"type": "ENERGY", "price": round(rng.uniform(0.2, 0.9), 4), "step_size": 1}
    if quarter is None:
        return {"price_components": [price, {"type": "FLAT", "price": 0.35, "step_size": 1}]}
    start, end = quarter * 15, (quarter + 1) * 15 % 1_440
    return {
        "price_components": [price],
        "restrictions": {
            "start_time": f"{start // 60:02}:{start % 60:02}",
            "end_time": f"{end // 60:02}:{end % 60:02}",
        },
    }


def _break_tariff(tariff: dict[str, Any], kind: int) -> None:
    first = tariff["elements"][0]
    changes: list[dict[str, Any]] = [
        {"elements": [None, *tariff["elements"]]},
        {"elements": [{**first, "restrictions": {"start_time": "7:00"}}]},
        {"elements": [{**first, "restrictions": {"sun": "shines"}}, *tariff["elements"]]},
        {"elements": []},
        {"currency": "EURO"},
        {"type": "regular"},
        {"last_updated": "yesterday"},
    ]
    tariff.update(changes[kind % len(changes)])


def locations(sizes: Sizes, rng: random.Random) -> Iterator[tuple[dict[str, Any], bool]]:
    """(a location, whether something of it is broken)."""
    extra = sizes.evses - sizes.locations
    for number in range(sizes.locations):
        evses = [_evse(rng, sizes, 1)]
        if number < extra:
            evses.append(_evse(rng, sizes, 2))
        location: dict[str, Any] = {
            "country_code": "NL",
            "party_id": "BIG",
            "id": f"L{number:06}",
            "publish": True,
            "name": f"Station {number}",
            "address": f"Kade {number % 300}",
            "city": "Amersfoort",
            "country": "NLD",
            "coordinates": {"latitude": "52.1561", "longitude": "5.3878"},
            "time_zone": "Europe/Amsterdam",
            "evses": evses,
            "last_updated": "2026-11-01T00:00:00Z",
        }
        broken = number % _BROKEN_EACH == 7
        if broken:
            _break_location(location, number // _BROKEN_EACH)
        yield location, broken


def _evse(rng: random.Random, sizes: Sizes, number: int) -> dict[str, Any]:
    connector = {
        "id": "1",
        "standard": "IEC_62196_T2",
        "format": "SOCKET",
        "power_type": "AC_3_PHASE",
        "max_voltage": 230,
        "max_amperage": 16,
        "tariff_ids": [f"T{rng.randrange(sizes.of_one_party):05}"],
        "last_updated": "2026-11-01T00:00:00Z",
    }
    return {"uid": f"E{number}", "status": "AVAILABLE", "connectors": [connector]}


def _break_location(location: dict[str, Any], kind: int) -> None:
    evse = location["evses"][0]
    connector = evse["connectors"][0]
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (connector, {"power_type": "ac_3_phase"}),
        (connector, {"standard": "SCHUKO_OF_1950"}),
        (evse, {"uid": "E 1"}),
        (location, {"name": "Sta\ttion"}),
        (location, {"time_zone": "Mars/Olympus"}),
        (location, {"evses": [None, evse]}),
        (location, {"id": ""}),
    ]
    of, change = changes[kind % len(changes)]
    of.update(change)


def _write(path: Path, objects: Iterator[tuple[dict[str, Any], bool]]) -> set[int]:
    """The positions of the broken ones, from 1."""
    broken = set()
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for position, (value, is_broken) in enumerate(objects, 1):
            file.write(",\n" * (position > 1) + json.dumps(value))
            if is_broken:
                broken.add(position)
        file.write("]")
    return broken


def _import(kind: str, path: Path, broken: set[int], target: Target) -> Imported:
    report = path.with_suffix(".csv")
    began_s = time.monotonic()
    command = [sys.executable, "-m", "voucher_grpc.cli", kind, "import", str(path)]
    process = subprocess.Popen(
        [*command, "--report", str(report)],
        env={**os.environ, "VOUCHER_TARGET": f"127.0.0.1:{target.port}", "COLUMNS": "200"},
        stdout=(out := path.with_suffix(".out").open("w+")),
        stderr=out,
    )
    # Not by getrusage: what it says of a child begins with the memory of its parent.
    peak_kib = 0
    while process.poll() is None:
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak_kib = int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
        time.sleep(0.05)
    wall_s = time.monotonic() - began_s
    out.seek(0)
    with report.open(encoding="utf-8") as file:
        reported = {int(row["entry"]) for row in csv.DictReader(file)}
    said = next((line for line in out if re.match(rf"{kind}: ", line)), "no summary")
    return Imported(
        wall_s,
        peak_kib / 1024,
        memory_mb(target.child.pid) * 1e6 / _MIB,
        said.strip(),
        len(broken),
        len(broken & reported),
    )


def main() -> int:
    """Exit code 1 if a broken entry was not reported."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of it")
    quick = parser.parse_args().quick
    sizes = Sizes(3_500, 5_000, 600, 525) if quick else Sizes()
    console = Console()
    with (
        throw_away_postgres() as url,
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as stack,
    ):
        console.print("making a world of users", style="dim")
        asyncio.run(make_world(url, USERS, PRODUCTS))
        facts = asyncio.run(servers.database_facts(url))
        load = stack.enter_context(Child("client", client, priced(PRODUCTS)))
        server = stack.enter_context(Child("service", servers.service, url))
        target = Target("service", server, server.receive(), USERS, True)
        load.ask(Samples(target.port, USERS))
        bench = Bench(load, facts["postmaster_pid"])

        def offers() -> float:
            name, seconds = "RequestOffers", 1.0 if quick else 4.0
            rounds = [
                bench.run(target, Round(name, target.port, USERS, name, seconds, 64, 30_000))
                for _ in range(4)
            ]
            return median(one.cpu_ms_per_call for one in rounds[1:])

        before = offers()
        imported = {}
        for kind, made in (("tariffs", tariffs), ("locations", locations)):
            path = Path(folder) / f"{kind}.json"
            broken = _write(path, made(sizes, random.Random(7)))
            console.print(f"importing {kind}, {path.stat().st_size / _MIB:.0f} MiB", style="dim")
            imported[kind] = _import(kind, path, broken, target)
        after = offers()
    table = Table(
        "import",
        "seconds",
        "client's peak, MiB",
        "worker after it, MiB",
        "said",
        "broken, reported",
    )
    for kind, one in imported.items():
        table.add_row(
            kind,
            f"{one.wall_s:.1f}",
            f"{one.client_peak_mib:.0f}",
            f"{one.server_mib:.0f}",
            one.said,
            f"{one.broken}, {one.reported}",
        )
    console.print(table)
    console.print(f"RequestOffers: CPU a call {before:.3f} ms before, {after:.3f} ms after")
    results = {
        "imports": {kind: one._asdict() for kind, one in imported.items()},
        "offers_cpu_ms": {"before": before, "after": after},
    }
    write_json(results, Path("build/feed.json"))
    return int(any(one.broken != one.reported for one in imported.values()))


if __name__ == "__main__":
    sys.exit(main())
