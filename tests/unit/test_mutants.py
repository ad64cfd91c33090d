"""The tool that mutates: what it changes, what it leaves alone, and what it draws."""

import pytest
from pglast import parse_sql

from tools.mutants import equivalents, python, sql
from tools.mutants.areas import AREAS, shares
from tools.mutants.model import ROOT, changed_lines, unified

MODULE = '''
"""A module with 1 number in its text."""

LIMIT = 3
Alias = int | str


@dataclass(slots=True)
class Kept:
    size: int | None = None


def rule(a: "int | None", *, b: int) -> bool:
    log.info("asked", number=1)
    if a and b > 2:
        raise ValueError(f"b is {b + 1}")
    return all(zip(a, b, strict=True))
'''

STATEMENTS = """-- found --
-- Why it is as it is: 1 < 2.
SELECT DISTINCT a.name, coalesce(a.price, 0) AS price
FROM a LEFT JOIN b ON b.name = a.name
WHERE a.size < 5 AND b.size IS NULL AND EXISTS (SELECT 1 FROM c)
    AND a.at > now() - make_interval(days => 2)
ORDER BY a.size DESC

-- forget --
DELETE FROM a WHERE name = $1
"""


def _python(**options: bool) -> set[str]:
    return {
        " | ".join(changed_lines(unified("m", MODULE, change.make())))
        for place in python.changes(MODULE, **options)
        for change in place
    }


def test_rules_are_mutated_and_what_tells_of_them_is_not() -> None:
    """Texts, types and decorators would only add mutants that no test should notice."""
    condition, end = "- if a and b > 2:", "- return all(zip(a, b, strict=True))"
    assert _python() == {
        "- LIMIT = 3 | + LIMIT = 4",
        "- LIMIT = 3 | + LIMIT = 2",
        f"{condition} | + if not a and b > 2:",
        f"{condition} | + if a or b > 2:",
        f"{condition} | + if a:",
        f"{condition} | + if b > 2:",
        f"{condition} | + if a and b >= 2:",
        f"{condition} | + if a and b <= 2:",
        f"{condition} | + if a and b > 3:",
        f"{condition} | + if a and b > 1:",
        f"{end} | + return any(zip(a, b, strict=True))",
    }


def test_waiting_times_of_other_modules_are_left_alone() -> None:
    """A second more is as good there, so constants are mutated in the domain only."""
    assert _python() - _python(constants=False) == {
        "- LIMIT = 3 | + LIMIT = 4",
        "- LIMIT = 3 | + LIMIT = 2",
    }


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ("drop DISTINCT", "SELECT DISTINCT a.name", "SELECT a.name"),
        ("swap LEFT and INNER", "LEFT JOIN b", "INNER JOIN b"),
        ("< to <=", "a.size < 5", "a.size <= 5"),
        ("swap ASC and DESC", "ORDER BY a.size DESC", "ORDER BY a.size"),
        ("swap IS NULL and IS NOT NULL", "b.size IS NULL", "b.size IS NOT NULL"),
        ("negate EXISTS", "AND EXISTS", "AND NOT EXISTS"),
        ("days to hours", "days => 2", "hours => 2"),
        ("turn coalesce round", "COALESCE(a.price, 0)", "COALESCE(0, a.price)"),
        ("number +1", "a.size < 5", "a.size < 6"),
        ("drop operand", "AND b.size IS NULL", ""),
    ],
)
def test_a_statement_is_mutated_alone(operator: str, before: str, after: str) -> None:
    """Each change reaches its statement only, and the file is still one of named statements."""
    original = sql.printed(sql.bodies(STATEMENTS)["found"])
    assert before in original
    made = [
        change.make()
        for place in sql.changes(STATEMENTS, "area")
        for change in place
        if (change.operator, change.statement) == (operator, "area.found")
    ]
    printed = [sql.printed(sql.bodies(text)["found"]) for text in made]
    assert any(before not in text and after in text for text in printed)
    for text in made:
        assert sql.bodies(text)["forget"] == sql.bodies(STATEMENTS)["forget"]


def _meaning(node: object) -> object:
    """A tree without places in the text."""
    if isinstance(node, dict):
        return {
            key: _meaning(value)
            for key, value in node.items()
            if not key.endswith(("location", "_start", "_end", "_len"))
        }
    return [_meaning(part) for part in node] if isinstance(node, list | tuple) else node


def test_printing_keeps_what_statements_mean() -> None:
    """A statement that is printed wrongly would make all of its mutants seem noticed."""
    for path in sorted((ROOT / "voucher_grpc/store/sql").glob("*.sql")):
        for name, body in sql.bodies(path.read_text(encoding="utf-8")).items():
            as_written, as_printed = (
                [_meaning(statement()) for statement in parse_sql(text)]
                for text in (body, sql.printed(body))
            )
            assert as_printed == as_written, name


def test_small_areas_have_their_share() -> None:
    """Shares go by the square root, never beyond what an area has, and add up."""
    assert shares({"large": 1600, "small": 100, "tiny": 1}, 51) == {
        "large": 40, "small": 10, "tiny": 1,
    }  # fmt: skip


def test_every_area_has_files() -> None:
    """A module that was renamed must not drop out unseen."""
    for patterns in AREAS.values():
        for pattern in patterns:
            assert list(ROOT.glob(pattern)), pattern


def test_reviewed_equivalents_are_still_there() -> None:
    """A review holds for the code that was reviewed."""
    assert equivalents.stale(equivalents.read()) == []
    gone = {"where": "voucher_grpc/money.py", "changed": ["- no such line"], "reason": "of old"}
    assert equivalents.stale([gone]) == ["voucher_grpc/money.py: - no such line"]
