"""Copies of the tree, in which mutants live and tests run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tools.mutants.model import ROOT, Mutant

FOLDER = ROOT / "build" / "mutants"
_SKIPPED = shutil.ignore_patterns(
    *(".git", ".venv", ".tools", ".data", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
)
_LINKED = (".venv", ".tools")


@dataclass
class Outcome:
    """Of one run of tests; `failed` is the first test that failed, if any."""

    passed: bool
    timed_out: bool
    failed: str
    took_s: float


@dataclass
class Tree:
    """A copy of the tree."""

    path: Path
    cluster_url: str = ""
    _ended: bool = False
    _process: subprocess.Popen[bytes] | None = None
    _written: int = field(default_factory=lambda: int(time.time()))

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """The tree with the mutant in it."""
        file = self.path / mutant.path
        original = file.read_text(encoding="utf-8")
        try:
            self._write(file, mutant.text)
            yield
        finally:
            self._write(file, original)

    def _write(self, file: Path, text: str) -> None:
        file.write_text(text, encoding="utf-8")
        # Compiled code is told apart by seconds and size: each text gets a time of its own.
        self._written += 1
        os.utime(file, (self._written, self._written))

    def environment(self, **more: str) -> dict[str, str]:
        """In which the copy's code is found before the installed one."""
        given = {k: v for k, v in os.environ.items() if not k.startswith(("VOUCHER_", "MUTANTS_"))}
        return {**given, "PYTHONPATH": str(self.path), "GRPC_ENABLE_FORK_SUPPORT": "0", **more}

    def run(self, limits_s: dict[str, float]) -> Outcome:
        """Run tests in this order until one fails; each has a limit of its own, in seconds."""
        chosen, told = self.path / "build" / "chosen.json", self.path / "build" / "failed.json"
        chosen.parent.mkdir(exist_ok=True)
        chosen.write_text(json.dumps(limits_s), encoding="utf-8")
        told.unlink(missing_ok=True)
        began_s = time.monotonic()
        code = self._pytest(
            sorted({test.partition("::")[0] for test in limits_s}),
            MUTANTS_CHOSEN=str(chosen),
            MUTANTS_TOLD=str(told),
        )
        if code == _NO_TESTS:
            raise RuntimeError(f"none of these tests is there: {' '.join(limits_s)}")
        failed = json.loads(told.read_text(encoding="utf-8")) if told.exists() else ""
        return Outcome(code == 0, code == TIMED_OUT, failed, time.monotonic() - began_s)

    def _pytest(self, files: list[str], **more: str) -> int:
        environment = self.environment(VOUCHER_TEST_POSTGRES=self.cluster_url, **more)
        with (self.path / "build" / "output.txt").open("w", encoding="utf-8") as output:
            self._process = process = subprocess.Popen(  # noqa: S603 - our own arguments
                [sys.executable, "-m", "pytest", *_OPTIONS, "-p", "tools.mutants.chosen", *files],
                cwd=self.path,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return process.wait()
            finally:
                # What the tests left behind, if they were ended in the middle.
                self._kill()
                process.wait()
                if self._ended:
                    raise RuntimeError("the run was ended")

    def end(self) -> None:
        """End the tests that run, and start no more."""
        self._ended = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


TIMED_OUT = 124
_NO_TESTS = 5  # as pytest says it
_OPTIONS = ("-x", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-seed=0")


def copy(name: str) -> Path:
    """A fresh copy of the working tree in build/mutants/."""
    path = FOLDER / name
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(ROOT, path, ignore=_SKIPPED, symlinks=True)
    for linked in _LINKED:
        if (ROOT / linked).exists():
            (path / linked).symlink_to(ROOT / linked)
    shared = FOLDER / "shared"
    if (ROOT.parent / "shared").is_dir() and not shared.exists():
        shared.symlink_to(ROOT.parent / "shared")
    return path
