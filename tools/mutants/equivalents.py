"""Mutations that were looked at and change nothing that a caller or an operator could notice."""

from pathlib import Path
from typing import Any

import yaml

from tools.mutants import sql
from tools.mutants.model import ROOT

FILE = Path(__file__).parent / "equivalents.yaml"


def read() -> list[dict[str, Any]]:
    """Entries with `where` (a file, in SQL and a statement), `changed` (lines after `-` or `+`)
    and `reason`."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8")) or []


def keys(entries: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    """What identifies them."""
    return {(entry["where"], *entry["changed"]) for entry in entries}


def stale(entries: list[dict[str, Any]]) -> list[str]:
    """Entries whose code is not there any more."""
    return [f"{e['where']}: {e['changed'][0]}" for e in entries if not _fits(e)]


def _fits(entry: dict[str, Any]) -> bool:
    file, _, name = entry["where"].partition(" ")
    path = ROOT / file
    if not path.is_file() or not entry.get("reason"):
        return False
    text = path.read_text(encoding="utf-8")
    if name:
        body = sql.bodies(text).get(name)
        text = "" if body is None else sql.printed(body)
    there = {line.strip() for line in text.splitlines()}
    return all(line[2:] in there for line in entry["changed"] if line.startswith("-"))
