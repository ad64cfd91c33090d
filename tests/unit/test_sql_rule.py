"""New statements can run on a distributed Postgres."""

from pathlib import Path

import pytest

from tools.sql_rule.__main__ import all_breaches, problems, read_known
from tools.sql_rule.rule import Breach, Found, breaches


def test_no_statement_breaks_the_rule_anew_and_the_list_is_current() -> None:
    """The list of known breaches may only get shorter."""
    assert [] == problems(all_breaches(), read_known())


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM passes WHERE user_id = $1",
        "SELECT * FROM passes p WHERE p.user_id = ANY($1::text[]) AND p.pass_id = $2",
        "SELECT 1 FROM passes p, ledger_entries l WHERE p.user_id = $1 AND $1 = l.user_id",
        "UPDATE holds SET sold = 1 WHERE product_id = ANY($1)",
        "DELETE FROM sessions WHERE user_id = $1",
        "INSERT INTO passes (user_id) VALUES ($1)",
        "INSERT INTO passes (user_id) SELECT user_id FROM unnest($1::text[]) AS k (user_id)",
        "WITH own AS (SELECT * FROM passes WHERE user_id = $1) SELECT * FROM own",
        "SELECT * FROM tariffs FOR UPDATE",
        (
            "SELECT * FROM products p, unnest($1::text[]) k,"
            " LATERAL (SELECT * FROM locations LIMIT 1) l"
        ),
        "INSERT INTO users (user_id) VALUES ($1) ON CONFLICT (user_id) DO UPDATE SET x = $2",
        "SELECT clock_timestamp() FROM passes WHERE user_id = $1",
    ],
)
def test_what_goes_to_the_node_of_its_key_is_fine(statement: str) -> None:
    """Also tables of which every node has a copy, in any form."""
    assert [] == breaches(statement)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SELECT * FROM passes", Found(Breach.NO_KEY, "passes")),
        ("SELECT * FROM passes WHERE pass_id = $1", Found(Breach.NO_KEY, "passes")),
        ("SELECT * FROM passes WHERE user_id > $1", Found(Breach.NO_KEY, "passes")),
        ("SELECT * FROM passes WHERE user_id = 'alice'", Found(Breach.NO_KEY, "passes")),
        ("UPDATE holds SET sold = 1", Found(Breach.NO_KEY, "holds")),
        ("DELETE FROM sessions WHERE session_id = $1", Found(Breach.NO_KEY, "sessions")),
        (
            (
                "SELECT 1 FROM passes p, ledger_entries l"
                " WHERE p.user_id = $1 AND l.user_id = p.user_id"
            ),
            Found(Breach.NO_KEY, "ledger_entries"),
        ),
        (
            "SELECT * FROM tariffs WHERE EXISTS (SELECT 1 FROM users)",
            Found(Breach.NO_KEY, "users"),
        ),
        (
            "SELECT * FROM owned_passes WHERE user_id = $1",
            Found(Breach.VIEW, "owned_passes"),
        ),
        (
            (
                "SELECT * FROM unnest($1::text[]) k, LATERAL"
                " (SELECT * FROM passes p WHERE p.user_id = $2 LIMIT 1) l"
            ),
            Found(Breach.LATERAL_LIMIT, "passes"),
        ),
        (
            (
                "SELECT * FROM unnest($1::text[]) k, LATERAL"
                " (SELECT * FROM passes p WHERE p.user_id = $2 OFFSET 0) l"
            ),
            Found(Breach.LATERAL_LIMIT, "passes"),
        ),
        (
            "SELECT * FROM passes WHERE user_id = ANY($1) FOR UPDATE",
            Found(Breach.FOR_UPDATE, "passes"),
        ),
        (
            "SELECT * FROM passes p WHERE p.user_id = ANY($1) FOR UPDATE OF p",
            Found(Breach.FOR_UPDATE, "passes"),
        ),
        (
            (
                "INSERT INTO users (user_id) VALUES ($1)"
                " ON CONFLICT (user_id) DO UPDATE SET t = clock_timestamp()"
            ),
            Found(Breach.VOLATILE_UPDATE, "clock_timestamp"),
        ),
        (
            "SELECT 1 FROM passes p, product_stock s WHERE p.user_id = $1 AND s.product_id = $2",
            Found(Breach.MIXED_JOIN, "passes, product_stock"),
        ),
        ("SELECT * FROM wishes WHERE user_id = $1", Found(Breach.UNKNOWN_TABLE, "wishes")),
    ],
)
def test_each_part_of_the_rule_is_noticed(statement: str, found: Found) -> None:
    """Nothing else is said of the statement."""
    assert [found] == breaches(statement)


def test_the_list_may_only_get_shorter(tmp_path: Path) -> None:
    """A new breach fails the check, and so does an entry that is not true any more."""
    (tmp_path / "passes.sql").write_text("-- all --\nSELECT * FROM passes\n")
    found = all_breaches(tmp_path)
    assert {"passes.all": ["NO_KEY passes"]} == found
    assert [] == problems(found, {"passes.all": ["NO_KEY passes"]})
    assert ["passes.all: NO_KEY passes: see tools/sql_rule/rule.py"] == problems(found, {})
    listed = {"passes.all": ["NO_KEY passes"], "passes.gone": ["VIEW owned_passes"]}
    assert ["passes.gone: VIEW owned_passes: holds no more; remove it"] == problems(found, listed)
