"""What all runs together came to, on the terminal and as JSON."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.fault.plan import Fault
from tests.fault.run import Outcome


@dataclass
class Report:
    """Runs, the same runs as mutations have without any, and mutations by name: what is
    broken, by which of the rules that must see it it was seen, and all that was seen."""

    runs: list[Outcome] = field(default_factory=list)
    baselines: list[Outcome] = field(default_factory=list)
    mutations: dict[str, tuple[str, list[str], list[str]]] = field(default_factory=dict)
    mutations_left_out: dict[str, str] = field(default_factory=dict)
    failed: str = ""
    began_s: float = field(default_factory=time.monotonic)

    @property
    def sound(self) -> bool:
        """Whether every promise was kept, and every broken rule seen."""
        kept = not any(outcome.breaches for outcome in (*self.runs, *self.baselines))
        return kept and not self.unseen and not self.failed

    @property
    def unseen(self) -> list[str]:
        """Mutations that no rule saw that should have."""
        return [name for name, (_, seen, _) in self.mutations.items() if not seen]

    def summary(self) -> dict[str, Any]:
        """The figures of the runs."""
        runs = self.runs
        faults: Counter[Fault] = sum((outcome.faults for outcome in runs), Counter())
        return {
            "runs": len(runs),
            "faults": faults.total(),
            "faults_by_kind": {str(kind): faults[kind] for kind in Fault},
            "left_out": dict(sum((outcome.left_out for outcome in runs), Counter())),
            "purchases_acknowledged": sum(outcome.acknowledged for outcome in runs),
            "calls": sum(outcome.calls for outcome in runs),
            "refused": dict(sum((outcome.refusals for outcome in runs), Counter()).most_common()),
            "unclear_resolved": sum(outcome.resolved for outcome in runs),
            "failures": dict(sum((outcome.failures for outcome in runs), Counter()).most_common()),
            "logged_errors": dict(sum((outcome.logged_errors for outcome in runs), Counter())),
            "events_read": sum(outcome.events_read for outcome in runs),
            "reader_lives": sum(outcome.reader_lives for outcome in runs),
            "seeds_broken": [outcome.seed for outcome in runs if outcome.breaches],
            "mutations_seen": len(self.mutations) - len(self.unseen),
            "mutations_unseen": self.unseen,
            "mutations_left_out": self.mutations_left_out,
            "seconds": round(time.monotonic() - self.began_s, 1),
            "failed": self.failed,
            "sound": self.sound,
        }

    def print(self, console: Console) -> None:
        """Tables of the summary."""
        summary = self.summary()
        table = Table("faults", "injected", title="what was done to the service")
        for kind, times in summary["faults_by_kind"].items():
            table.add_row(kind, str(times))
        for why, times in summary["left_out"].items():
            table.add_row(f"[left out] {why}".replace("[", "\\["), str(times))
        told = Table("told", "how often", title="what became of it")
        rows = {
            "runs": summary["runs"],
            "faults": summary["faults"],
            "purchases acknowledged": summary["purchases_acknowledged"],
            "calls to buy": summary["calls"],
            "unclear outcomes resolved by retry": summary["unclear_resolved"],
            **{f"refused: {why}": times for why, times in summary["refused"].items()},
            "events read": summary["events_read"],
            "lives of readers": summary["reader_lives"],
            "errors logged by servers": sum(summary["logged_errors"].values()),
            "mutations seen": f"{summary['mutations_seen']} of {len(self.mutations)}",
            "seconds": summary["seconds"],
        }
        for name, value in rows.items():
            told.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
        console.print(table)
        console.print(told)
        for what in self._complaints():
            console.print(what, style="red", markup=False)
        if self.sound:
            console.print("no promise was broken", style="green")

    def _complaints(self) -> list[str]:
        broken = [
            f"seed {outcome.seed} broke {breach}"
            for outcome in (*self.runs, *self.baselines)
            for breach in outcome.breaches
        ]
        unseen = [f"mutation {name} was not seen" for name in self.unseen]
        return [*broken, *unseen, *([f"the runs ended early: {self.failed}"] * bool(self.failed))]

    def write(self, file: Path) -> None:
        """The summary and each run, as JSON."""
        runs = [
            {
                "seed": outcome.seed,
                "seconds": round(outcome.seconds, 1),
                "purchases_acknowledged": outcome.acknowledged,
                "faults": {str(kind): times for kind, times in outcome.faults.items()},
                "breaches": [str(breach) for breach in outcome.breaches],
            }
            for outcome in self.runs
        ]
        mutations = {
            name: {"what": what, "seen_by": seen, "breaches": breaches}
            for name, (what, seen, breaches) in self.mutations.items()
        }
        file.parent.mkdir(exist_ok=True)
        content = {**self.summary(), "each_run": runs, "mutations": mutations}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def keep_journal(outcome: Outcome, folder: Path) -> Path:
    """What the clients of a run were told, a line each, to look into a breach."""
    folder.mkdir(exist_ok=True)
    file = folder / f"fault-{outcome.seed}.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for line in outcome.journal.lines():
            lines.write(json.dumps(line) + "\n")
    return file
