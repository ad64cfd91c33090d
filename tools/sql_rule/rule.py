"""The rule for a statement, read from its syntax tree; no database is needed.

Rows of a distributed table live on the node that the row's key says (Citus, and others alike). A
statement that names the key goes to one node; one that does not goes to all of them, and some
forms are not possible at all. docs/decisions.md says why the service follows the rule.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from pglast import ast, enums, parse_sql


class Breach(StrEnum):
    """A part of the rule that a statement does not follow."""

    NO_KEY = "NO_KEY"  # a distributed table without `key = $n` or `key = ANY($n)` in its query
    VIEW = "VIEW"  # a view that hides a second distributed table
    LATERAL_LIMIT = "LATERAL_LIMIT"  # LATERAL with LIMIT or OFFSET over unnest
    FOR_UPDATE = "FOR_UPDATE"  # row locks of a SELECT, which one node only can give
    VOLATILE_UPDATE = "VOLATILE_UPDATE"  # a volatile function in ON CONFLICT DO UPDATE
    MIXED_JOIN = "MIXED_JOIN"  # a join of tables that are distributed by different keys
    UNKNOWN_TABLE = "UNKNOWN_TABLE"  # a table of which it is not said how it is distributed


# The column by which a table is distributed, and what it holds: tables with keys of one kind have
# the rows of one key on one node.
KEYS = {
    **dict.fromkeys(
        (
            "users",
            "sessions",
            "cancelled_sessions",
            "tendencies",
            "tendency_places",
            "user_sequences",
            "passes",
            "ledger_entries",
            "charges",
            "charge_passes",
            "events",
            "passes_with_balance",
            "owned_passes",
        ),
        ("user", "user_id"),
    ),
    "product_stock": ("product", "product_id"),
    "holds": ("product", "product_id"),
    "payment_references": ("reference", "payment_reference"),
    "vehicles": ("vehicle", "vehicle_id"),
    "tokens": ("token", "token_key"),
}
VIEWS = frozenset({"passes_with_balance", "owned_passes"})
# Small tables that each node has a copy of, and those that only the first node has.
COPIED = frozenset(
    {
        "catalogue_changes",
        "closing_turn",
        "event_marks",
        "event_stream",
        "forecast_parameters",
        "locations",
        "product_revisions",
        "products",
        "schema_migrations",
        "segments",
        "tariffs",
        "versions",
    }
)
_VOLATILE = frozenset({"clock_timestamp", "gen_random_uuid", "nextval", "now", "random"})
_QUERIES = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt)
_EQUALS = (enums.A_Expr_Kind.AEXPR_OP, enums.A_Expr_Kind.AEXPR_OP_ANY)


class Found(NamedTuple):
    """A breach, and the table or function that it is about."""

    breach: Breach
    about: str


def breaches(statement: str) -> list[Found]:
    """What a statement does not follow; empty if all is well. Raises pglast's ParseError."""
    found: set[Found] = set()
    for raw in parse_sql(statement):
        nodes = list(_walk(raw.stmt))
        named = {node.ctename for node in nodes if _is(node, ast.CommonTableExpr)}
        for query in nodes:
            if _is(query, *_QUERIES):
                found.update(_of_query(query, named))
    return sorted(found)


def _of_query(query: Any, named: set[str]) -> Iterator[Found]:
    nodes = list(_level(query))
    tables = _tables(query, nodes, named)
    for name in set(tables.values()) - KEYS.keys() - COPIED:
        yield Found(Breach.UNKNOWN_TABLE, name)
    distributed = {alias: name for alias, name in tables.items() if name in KEYS}
    pinned = _pinned(nodes, distributed)
    for alias, name in distributed.items():
        if alias not in pinned:
            yield Found(Breach.NO_KEY, name)
        if name in VIEWS:
            yield Found(Breach.VIEW, name)
    if len({KEYS[name][0] for name in distributed.values()}) > 1:
        yield Found(Breach.MIXED_JOIN, ", ".join(sorted(set(distributed.values()))))
    if _is(query, ast.SelectStmt) and query.lockingClause and distributed:
        yield Found(Breach.FOR_UPDATE, ", ".join(sorted(set(distributed.values()))))
    yield from _laterals(nodes)
    if _is(query, ast.InsertStmt) and query.onConflictClause:
        yield from _volatile(query.onConflictClause)


def _tables(query: Any, nodes: Sequence[Any], named: set[str]) -> dict[str, str]:
    """The tables that a query reads or changes, by alias; what INSERT writes to has its key."""
    written = query.relation if _is(query, ast.InsertStmt) else None
    return {
        node.alias.aliasname if node.alias else node.relname: node.relname
        for node in nodes
        if _is(node, ast.RangeVar) and node is not written and node.relname not in named
    }


def _pinned(nodes: Sequence[Any], distributed: dict[str, str]) -> set[str]:
    """The aliases whose key is compared with a parameter."""
    found: set[str] = set()
    for node in nodes:
        if not _is(node, ast.A_Expr) or node.kind not in _EQUALS:
            continue
        if node.name[-1].sval != "=":
            continue
        for column, other in ((node.lexpr, node.rexpr), (node.rexpr, node.lexpr)):
            if _is(column, ast.ColumnRef) and _is_parameter(other):
                names = [field.sval for field in column.fields if isinstance(field, ast.String)]
                found.update(
                    alias
                    for alias, table in distributed.items()
                    if names[-1:] == [KEYS[table][1]] and names[:-1] in ([], [alias])
                )
    return found


def _is_parameter(node: Any) -> bool:
    while _is(node, ast.TypeCast):
        node = node.arg
    return _is(node, ast.ParamRef)


def _laterals(nodes: Sequence[Any]) -> Iterator[Found]:
    """Sub-queries that would be run once for each element of an array."""
    if not any(_is(node, ast.RangeFunction) for node in nodes):
        return
    for node in nodes:
        if not _is(node, ast.RangeSubselect) or not node.lateral:
            continue
        inner = node.subquery
        tables = {n.relname for n in _walk(inner) if _is(n, ast.RangeVar)} & KEYS.keys()
        if tables and (inner.limitCount is not None or inner.limitOffset is not None):
            yield Found(Breach.LATERAL_LIMIT, ", ".join(sorted(tables)))


def _volatile(conflict: Any) -> Iterator[Found]:
    for node in _walk(conflict):
        if _is(node, ast.FuncCall) and node.funcname[-1].sval in _VOLATILE:
            yield Found(Breach.VOLATILE_UPDATE, node.funcname[-1].sval)


def _is(node: Any, *kinds: type) -> bool:
    """isinstance, which would narrow the type to one whose attributes may be None."""
    return isinstance(node, kinds)


def _children(node: Any) -> Iterator[Any]:
    for attribute in node or ():
        value = getattr(node, attribute, None)
        if isinstance(value, ast.Node):
            yield value
        elif isinstance(value, tuple):
            for item in value:
                if isinstance(item, ast.Node):
                    yield item
                elif isinstance(item, tuple):
                    yield from (part for part in item if isinstance(part, ast.Node))


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for child in _children(node):
        yield from _walk(child)


def _level(node: Any) -> Iterator[Any]:
    """The nodes of a query, without those of queries inside it."""
    for child in _children(node):
        # What FOR UPDATE OF names are aliases.
        if not _is(child, *_QUERIES, ast.LockingClause):
            yield child
            yield from _level(child)
