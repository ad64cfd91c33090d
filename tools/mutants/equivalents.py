"""Mutations that were looked at and change nothing that a caller or an operator could notice."""

from pathlib import Path
from typing import Any

import yaml

from tools.mutants import sql
from tools.mutants.model import ROOT

FILE = Path(__file__).parent / "equivalents.yaml"


def read() -> list[dict[str, Any]]:
    """Entries with `path`, `changed` (lines after `-` or `+`) and `reason`."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8")) or []


def keys(entries: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    """What identifies them."""
    return {(entry["path"], *entry["changed"]) for entry in entries}


def stale(entries: list[dict[str, Any]]) -> list[str]:
    """Entries whose code is not there any more."""
    return [f"{e['path']}: {e['changed'][0]}" for e in entries if not _fits(e)]


def _fits(entry: dict[str, Any]) -> bool:
    path = ROOT / entry["path"]
    if not path.is_file() or not entry.get("reason"):
        return False
    there = {line.strip() for line in _text(path).splitlines()}
    return all(line[2:] in there for line in entry["changed"] if line.startswith("-"))


def _text(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return sql.all_printed(text) if path.suffix == ".sql" else text
