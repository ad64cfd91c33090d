"""Which tests to run for a mutant: recorded once, kept in build/mutants/map, renewed by change.

After a change of the code or of what tests share all tests are recorded anew, after a change of
test modules these alone. The fault suite is left out: it takes minutes, and is random.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from typing import Any

from coverage import Coverage, CoverageData

from tools.mutants.model import ROOT, Mutant
from tools.mutants.statements import FOLDER_VARIABLE
from tools.mutants.trees import FOLDER, Tree, copy

MAP = FOLDER / "map"
_TESTS = ("tests/unit", "tests/integration")
# How many test modules are recorded at a time.
_MODULES = 8
# What tests may take together, as recorded: those that are left out would be the slowest.
_UNIT_BUDGET_S, _BUDGET_S = 240.0, 90.0
_COVERAGE = """
[run]
parallel = true
data_file = {folder}/coverage
include = {tree}/voucher_grpc/*
omit = {tree}/voucher_grpc/v1/*
context = ${{MUTANTS_TEST-}}
plugins = tools.mutants.statements
disable_warnings = no-data-collected, module-not-imported, couldnt-parse
"""


def _digests() -> dict[str, str]:
    """Of test modules each, of all else together."""
    found: dict[str, str] = {}
    rest = hashlib.sha256()
    for folder in ("voucher_grpc", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in {".py", ".sql", ".json", ".yaml"}:
                continue
            name = str(path.relative_to(ROOT))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.name.startswith("test_"):
                found[name] = digest
            elif not name.startswith("tests/fault/"):
                rest.update(f"{name} {digest}\n".encode())
    return {**found, "": rest.hexdigest()}


def record() -> None:
    """Record what has changed since the last time, some modules at a time."""
    now, before = _digests(), _read("digests.json", {})
    if now[""] != before.get(""):
        shutil.rmtree(MAP, ignore_errors=True)
        MAP.mkdir(parents=True)
        before = {"": now[""]}
    wanted = [name for name in now if name.startswith(_TESTS) and now[name] != before.get(name)]
    wanted.sort(key=lambda name: not name.startswith("tests/unit"))
    for begin in range(0, len(wanted), _MODULES):
        paths = wanted[begin : begin + _MODULES]
        print(f"recording what these execute: {' '.join(paths)}", flush=True)
        _record(paths)
        # A run that is ended goes on here.
        before |= {path: now[path] for path in paths}
        _write("digests.json", before)
    _write("digests.json", now)


def _record(paths: list[str]) -> None:
    for file in MAP.iterdir():
        if file.name.startswith(("coverage.", "statements.", "durations")):
            file.unlink()
    tree = Tree(copy("map-tree"))
    settings = MAP / "coveragerc"
    settings.write_text(_COVERAGE.format(folder=MAP, tree=tree.path), encoding="utf-8")
    more = {"COVERAGE_PROCESS_START": str(settings), FOLDER_VARIABLE: str(MAP)}
    subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "pytest", "-p", "tools.mutants.recording", *_OPTIONS, *paths],
        cwd=tree.path,
        env=tree.environment(**more),
        check=False,  # a test that fails is not used
    )
    if not (MAP / "durations").exists():
        raise SystemExit("the tests did not run; nothing was recorded")
    _merge(paths)


_OPTIONS = ("-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider", "--hypothesis-seed=0")


def _merge(paths: list[str]) -> None:
    """Put what was recorded beside what is known of other tests."""
    combined = Coverage(data_file=str(MAP / "lines"), config_file=False)
    if (MAP / "lines").exists():
        combined.load()
    parts = [str(file) for file in MAP.iterdir() if file.name.startswith("coverage.")]
    combined.combine(parts)
    combined.save()

    def kept(test: str) -> bool:
        return not test.startswith(tuple(paths))

    durations = {t: s for t, s in _read("tests.json", {}).items() if kept(t)}
    new = dict(json.loads(line) for line in (MAP / "durations").read_text("utf-8").splitlines())
    _write("tests.json", {**durations, **new})
    told = {tuple(pair) for pair in _read("told.json", []) if kept(pair[0])}
    for file in MAP.glob("statements.*"):
        told |= {tuple(json.loads(line)) for line in file.read_text("utf-8").splitlines()}
        file.unlink()
    _write("told.json", sorted(told))


def _read(name: str, otherwise: Any) -> Any:
    path = MAP / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise


def _write(name: str, content: object) -> None:
    (MAP / name).write_text(json.dumps(content), encoding="utf-8")


class Covering:
    """What was recorded."""

    def __init__(self) -> None:
        self.durations_s: dict[str, float] = _read("tests.json", {})
        self._told: list[list[str]] = _read("told.json", [])
        self._lines = CoverageData(str(MAP / "lines"))
        self._lines.read()
        self._paths = {
            path.partition("/map-tree/")[2]: path for path in self._lines.measured_files()
        }
        self.digest = hashlib.sha256((MAP / "digests.json").read_bytes()).hexdigest()

    def tests(self, mutant: Mutant) -> list[str]:
        """The tests that execute what was changed: of units first, and the fastest first.

        Of those of a server one of each module comes first, then a second of each: in a module
        those that execute more of what was changed in less time.
        """
        reached = self._reached(mutant)
        known = {test: lines for test, lines in reached.items() if test in self.durations_s}
        units = sorted((t for t in known if t.startswith("tests/unit")), key=self._duration_s)
        others = sorted(
            known.keys() - set(units), key=lambda t: (self._duration_s(t) / known[t], t)
        )
        seen: Counter[str] = Counter()
        turns: dict[str, int] = {}
        for test in others:
            module = test.partition("::")[0]
            seen[module] += 1
            turns[test] = seen[module]
        others.sort(key=lambda test: turns[test])
        return [*self._within(units, _UNIT_BUDGET_S), *self._within(others, _BUDGET_S)]

    def reached(self, mutant: Mutant) -> int:
        """How many tests execute what was changed, those left out for their time included."""
        return len(self._reached(mutant).keys() & self.durations_s.keys())

    def _reached(self, mutant: Mutant) -> "Counter[str]":
        if mutant.change.statement:
            return Counter({t: 1 for t, s in self._told if s == mutant.change.statement})
        return self._of_lines(mutant)

    def _of_lines(self, mutant: Mutant) -> "Counter[str]":
        contexts = self._lines.contexts_by_lineno(self._paths.get(mutant.path, ""))
        whole = Counter(test for tests in contexts.values() for test in tests if test)
        there = {test for line in mutant.change.lines for test in contexts.get(line, ()) if test}
        # What is executed at import alone concerns all that use the module.
        return Counter({test: whole[test] for test in there}) or whole

    def _duration_s(self, test: str) -> float:
        return self.durations_s[test]

    def _within(self, tests: list[str], budget_s: float) -> list[str]:
        taken: list[str] = []
        left_s = budget_s
        for test in tests:
            left_s -= self._duration_s(test)
            if left_s < 0 and taken:
                break
            taken.append(test)
        return taken

    def limits_s(self, tests: list[str]) -> dict[str, float]:
        """How long a test may take: much longer than it did, since the machine may be busy."""
        return {test: 30 + 10 * self._duration_s(test) for test in tests}
