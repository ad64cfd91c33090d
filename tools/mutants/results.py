"""What became of mutants, kept in build/mutants/results.jsonl, and the report."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum

from tools.mutants.model import Mutant
from tools.mutants.trees import FOLDER

_FILE = FOLDER / "results.jsonl"
REPORT = FOLDER / "report.md"


class Verdict(StrEnum):
    """What became of a mutant."""

    NOTICED = "noticed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"


@dataclass(frozen=True)
class Result:
    """A verdict, the test that noticed, how many tests were to be run of how many that execute
    what was changed, and the time taken."""

    verdict: Verdict
    test: str
    tests: int
    reached: int
    took_s: float


class Results:
    """Results of earlier runs and of this one."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, Result]] = {}
        if _FILE.exists():
            for line in _FILE.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                key, digest = entry.pop("key"), entry.pop("digest")
                entry["verdict"] = Verdict(entry["verdict"])
                self._found[key] = digest, Result(**entry)

    def of(self, mutant: Mutant, digest: str) -> Result | None:
        """The result of a mutant; one that survived other tests than today's has none."""
        found_digest, result = self._found.get(mutant.key, ("", None))
        if result and result.verdict is Verdict.SURVIVED and found_digest != digest:
            return None
        return result

    def add(self, mutant: Mutant, digest: str, result: Result) -> None:
        """Keep a result."""
        self._found[mutant.key] = digest, result
        with _FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": mutant.key, "digest": digest, **asdict(result)}) + "\n")


def write_report(mutants: list[Mutant], results: Results, digest: str, seed: int) -> str:
    """Write the report with the survivors, and return its table."""
    judged = [(mutant, results.of(mutant, digest)) for mutant in mutants]
    counts: dict[str, Counter[str]] = {}
    for mutant, result in judged:
        counts.setdefault(mutant.area, Counter())[result.verdict if result else "not run"] += 1
    lines = ["| area | mutants | noticed | timed out | survived |", "|---|---|---|---|---|"]
    whole: Counter[str] = sum(counts.values(), Counter())
    for area, count in [*counts.items(), ("all", whole)]:
        row = (area, count.total(), *(count[verdict] for verdict in Verdict))
        lines.append(f"| {' | '.join(map(str, row))} |")
    seen = whole[Verdict.NOTICED] + whole[Verdict.TIMED_OUT]
    lines += [
        "",
        f"{seen} of {whole.total()} noticed ({seen / max(whole.total(), 1):.1%}), seed {seed}",
    ]
    parts = ["# Mutants", "", *lines, "", "# Survivors"]
    for mutant, result in judged:
        if result and result.verdict is Verdict.SURVIVED:
            ran = f"{result.tests} of {result.reached} tests"
            title = f"## {mutant.key} {mutant.area}: {mutant.change.operator}, {ran}"
            parts += ["", title, "```diff", mutant.diff, "```"]
    REPORT.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return "\n".join([*lines, f"survivors: {REPORT}"])
