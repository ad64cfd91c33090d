"""`make sql-rule`: the service's statements against the rule of `rule.py`.

Those that broke it when it was made stand in known.yaml, which may only get shorter: a
statement that breaks the rule and is not listed there fails the check, and so does an entry
that is not true any more.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from tools.mutants.sql import bodies
from tools.sql_rule.rule import Found, breaches

ROOT = Path(__file__).resolve().parent.parent.parent
STATEMENTS = ROOT / "voucher_grpc" / "store" / "sql"
KNOWN = Path(__file__).resolve().parent / "known.yaml"


def all_breaches(folder: Path = STATEMENTS) -> dict[str, list[str]]:
    """`NO_KEY passes` and the like by `file.statement`, of those that break the rule."""
    found = {
        f"{path.stem}.{name}": [_text(one) for one in breaches(body)]
        for path in sorted(folder.glob("*.sql"))
        for name, body in bodies(path.read_text(encoding="utf-8")).items()
    }
    return {name: said for name, said in found.items() if said}


def _text(found: Found) -> str:
    return f"{found.breach} {found.about}"


def problems(found: Mapping[str, Sequence[str]], known: Mapping[str, Sequence[str]]) -> list[str]:
    """New breaches, and entries of the list that are to be taken out of it."""
    said = []
    for name in sorted(found.keys() | known.keys()):
        here, listed = set(found.get(name, ())), set(known.get(name, ()))
        said += [f"{name}: {one}: see tools/sql_rule/rule.py" for one in sorted(here - listed)]
        said += [f"{name}: {one}: holds no more; remove it" for one in sorted(listed - here)]
    return said


def read_known(path: Path = KNOWN) -> dict[str, list[str]]:
    """The list: breaches by statement."""
    known: dict[str, list[str]] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return known


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.sql_rule", description=__doc__)
    parser.add_argument("--list", action="store_true", help="show all breaches and stop")
    found = all_breaches()
    if parser.parse_args().list:
        print(yaml.safe_dump(found, sort_keys=True, width=100), end="")
        return 0
    known = read_known()
    said = problems(found, known)
    count = sum(len(listed) for listed in known.values())
    print("\n".join(said) or f"sql: no new breach of the rule; {count} known ones")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
