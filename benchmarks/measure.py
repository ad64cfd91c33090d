"""Rounds: one server, one method, one load, with the CPU that all involved used."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median

from benchmarks.load import NO_CREDENTIALS, Credentials, Outcome, Round
from benchmarks.processes import Child, tree_cpu_s


@dataclass(frozen=True, slots=True)
class Figures:
    """What a round, or the median of several, gave. `cpu_ms_per_call` is server and Postgres."""

    calls_per_s: float
    cpu_ms_per_call: float
    server_cpu_ms_per_call: float
    postgres_cpu_ms_per_call: float
    client_cpu_ms_per_call: float
    p50_ms: float
    p99_ms: float

    def as_dict(self) -> dict[str, float]:
        """For bench.json."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is measured, with the users of its world.

    The echo has no Postgres, and without its rules the service writes nothing.
    """

    name: str
    child: Child
    port: int
    users: int
    uses_postgres: bool
    writes: bool = True
    credentials: Credentials = NO_CREDENTIALS


class Bench:
    """The client and Postgres, beside whatever is measured; counts what was bought."""

    def __init__(self, client: Child, postmaster_pid: int) -> None:
        self._client = client
        self._postmaster_pid = postmaster_pid
        self.acknowledged = 0

    def run(self, target: Target, wanted: Round) -> Figures:
        """One round. Raises RunFailed if a call was not OK."""
        self._client.ask(wanted)
        server_s, postgres_s = tree_cpu_s(target.child.pid), tree_cpu_s(self._postmaster_pid)
        outcome: Outcome = self._client.ask("go")
        server_s = tree_cpu_s(target.child.pid) - server_s
        postgres_s = tree_cpu_s(self._postmaster_pid) - postgres_s
        if not target.uses_postgres:
            postgres_s = 0.0
        elif target.writes and wanted.rpc == "PurchasePass":
            self.acknowledged += outcome.calls
        a_call = 1000 / outcome.calls
        return Figures(
            calls_per_s=outcome.calls / outcome.elapsed_s,
            cpu_ms_per_call=(server_s + postgres_s) * a_call,
            server_cpu_ms_per_call=server_s * a_call,
            postgres_cpu_ms_per_call=postgres_s * a_call,
            client_cpu_ms_per_call=outcome.client_cpu_s * a_call,
            p50_ms=outcome.p50_ms,
            p99_ms=outcome.p99_ms,
        )


def medians(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure by itself."""
    return Figures(
        **{field.name: median(getattr(f, field.name) for f in rounds) for field in fields(Figures)}
    )
