"""Mutations of SQL statements: made in the tree of PostgreSQL's own parser and printed from it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pglast import ast, enums, parse_sql
from pglast.stream import IndentedStream

from tools.mutants.model import Change

_NAME = re.compile(r"^-- (\w+) --$", re.MULTILINE)
_OPERATORS = {
    "<": ("<=", ">="), "<=": ("<", ">"), ">": (">=", "<="), ">=": (">", "<"),
    "=": ("<>",), "<>": ("=",), "+": ("-",), "-": ("+",), "*": ("/",), "/": ("*",),
}  # fmt: skip
_FUNCTIONS = {
    "min": "max", "max": "min", "bool_and": "bool_or", "bool_or": "bool_and", "sum": "max",
    "lead": "lag", "lag": "lead", "ceil": "floor", "floor": "ceil",
}  # fmt: skip
_UNITS = {"days": "hours", "hours": "days", "mins": "secs", "secs": "mins"}

# An edit changes the tree in place.
Edit = Callable[[], None]


@dataclass(frozen=True)
class _Place:
    """A node and where it hangs."""

    node: Any
    parent: Any
    attribute: str
    index: int | None

    def put(self, node: object) -> None:
        """Hang another node there."""
        if self.index is None:
            setattr(self.parent, self.attribute, node)
            return
        nodes = list(getattr(self.parent, self.attribute))
        nodes[self.index] = node
        setattr(self.parent, self.attribute, tuple(nodes))


def changes(text: str, area: str) -> list[list[Change]]:
    """The places in a file of named statements, each with the ways to change it."""
    return [
        place
        for name, body in bodies(text).items()
        for place in _changes(text, body, f"{area}.{name}")
    ]


def printed(body: str) -> str:
    """A statement as pglast prints it."""
    return str(IndentedStream(comma_at_eoln=True)(parse_sql(body)))


def bodies(text: str) -> dict[str, str]:
    """The statements of a file by name."""
    parts = _NAME.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _changes(text: str, body: str, name: str) -> Iterator[list[Change]]:
    original = printed(body)

    def change(operator: str, number: int) -> Change:
        def make() -> str:
            tree = parse_sql(body)
            list(_edits(tree))[number][1]()
            mutated = str(IndentedStream(comma_at_eoln=True)(tree))
            parse_sql(mutated)
            if mutated == original:
                raise ValueError(f"{name}: {operator} changes nothing")
            return text.replace(body, f"\n{mutated}\n\n")

        return Change(operator, range(0), name, make)

    places: dict[int, list[Change]] = {}
    found = [(operator, place) for operator, _, place in _edits(parse_sql(body))]
    for number, (operator, place) in enumerate(found):
        places.setdefault(place, []).append(change(operator, number))
    yield from places.values()


def _edits(tree: Any) -> Iterator[tuple[str, Edit, int]]:
    """All edits, in the order of the tree, with the number of the place."""
    number = 0
    for statement_ in tree:
        for place in list(_walk(_Place(statement_.stmt, statement_, "stmt", None))):
            for finder in _FINDERS.get(type(place.node).__name__, ()):
                for operator, edit in finder(place):
                    yield operator, edit, number
                number += 1


def _walk(place: _Place) -> Iterator[_Place]:
    yield place
    for attribute in place.node:
        value = getattr(place.node, attribute)
        if isinstance(value, ast.Node):
            yield from _walk(_Place(value, place.node, attribute, None))
        elif isinstance(value, tuple):
            for index, child in enumerate(value):
                if isinstance(child, ast.Node):
                    yield from _walk(_Place(child, place.node, attribute, index))


def _set(node: Any, attribute: str, value: object) -> Edit:
    return lambda: setattr(node, attribute, value)


def _without(values: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return values[:index] + values[index + 1 :]


def _boolean(place: _Place) -> Iterator[tuple[str, Edit]]:
    node = place.node
    if node.boolop == enums.BoolExprType.NOT_EXPR:
        yield "drop NOT", lambda: place.put(node.args[0])
        return
    for index in range(len(node.args)):
        yield "drop operand", _set(node, "args", _without(node.args, index))
    others = {
        enums.BoolExprType.AND_EXPR: enums.BoolExprType.OR_EXPR,
        enums.BoolExprType.OR_EXPR: enums.BoolExprType.AND_EXPR,
    }
    yield "swap AND and OR", _set(node, "boolop", others[node.boolop])


def _operator(place: _Place) -> Iterator[tuple[str, Edit]]:
    node = place.node
    if node.kind == enums.A_Expr_Kind.AEXPR_OP and node.lexpr is not None:
        for other in _OPERATORS.get(node.name[-1].sval, ()):
            yield f"{node.name[-1].sval} to {other}", _set(node, "name", (ast.String(other),))


def _order(place: _Place) -> Iterator[tuple[str, Edit]]:
    descending = place.node.sortby_dir == enums.SortByDir.SORTBY_DESC
    other = enums.SortByDir.SORTBY_DEFAULT if descending else enums.SortByDir.SORTBY_DESC
    yield "swap ASC and DESC", _set(place.node, "sortby_dir", other)


def _number(place: _Place) -> Iterator[tuple[str, Edit]]:
    # What EXISTS or RETURNING list is never read.
    if isinstance(place.node.val, ast.Integer) and not isinstance(place.parent, ast.ResTarget):
        number = place.node.val.ival or 0
        for step in (1, -1):
            value = ast.A_Const(isnull=False, val=ast.Integer(number + step))
            yield f"number {step:+d}", lambda value=value: place.put(value)  # type: ignore[misc]


def _join(place: _Place) -> Iterator[tuple[str, Edit]]:
    node = place.node
    others = {
        enums.JoinType.JOIN_LEFT: enums.JoinType.JOIN_INNER,
        enums.JoinType.JOIN_INNER: enums.JoinType.JOIN_LEFT,
    }
    if (node.quals is not None or node.usingClause) and node.jointype in others:
        yield "swap LEFT and INNER", _set(node, "jointype", others[node.jointype])


def _function(place: _Place) -> Iterator[tuple[str, Edit]]:
    node = place.node
    if other := _FUNCTIONS.get(node.funcname[-1].sval):
        yield f"{node.funcname[-1].sval} to {other}", _set(node, "funcname", (ast.String(other),))
    if node.agg_distinct:
        yield "drop DISTINCT", _set(node, "agg_distinct", False)


def _unit(place: _Place) -> Iterator[tuple[str, Edit]]:
    if other := _UNITS.get(place.node.name):
        yield f"{place.node.name} to {other}", _set(place.node, "name", other)


def _coalesce(place: _Place) -> Iterator[tuple[str, Edit]]:
    yield "turn coalesce round", _set(place.node, "args", tuple(reversed(place.node.args)))
    yield "drop from coalesce", _set(place.node, "args", place.node.args[:-1])


def _extreme(place: _Place) -> Iterator[tuple[str, Edit]]:
    greatest = place.node.op == enums.MinMaxOp.IS_GREATEST
    other = enums.MinMaxOp.IS_LEAST if greatest else enums.MinMaxOp.IS_GREATEST
    yield "swap greatest and least", _set(place.node, "op", other)


def _select(place: _Place) -> Iterator[tuple[str, Edit]]:
    node = place.node
    if node.distinctClause:
        yield "drop DISTINCT", _set(node, "distinctClause", None)
    if node.op == enums.SetOperation.SETOP_UNION:
        yield "swap UNION and UNION ALL", _set(node, "all", not node.all)


def _exists(place: _Place) -> Iterator[tuple[str, Edit]]:
    if place.node.subLinkType == enums.SubLinkType.EXISTS_SUBLINK:
        negated = ast.BoolExpr(boolop=enums.BoolExprType.NOT_EXPR, args=(place.node,))
        yield "negate EXISTS", lambda: place.put(negated)


def _null(place: _Place) -> Iterator[tuple[str, Edit]]:
    is_null = place.node.nulltesttype == enums.NullTestType.IS_NULL
    other = enums.NullTestType.IS_NOT_NULL if is_null else enums.NullTestType.IS_NULL
    yield "swap IS NULL and IS NOT NULL", _set(place.node, "nulltesttype", other)


_FINDERS: dict[str, tuple[Callable[[_Place], Iterator[tuple[str, Edit]]], ...]] = {
    "BoolExpr": (_boolean,),
    "A_Expr": (_operator,),
    "SortBy": (_order,),
    "A_Const": (_number,),
    "JoinExpr": (_join,),
    "FuncCall": (_function,),
    "NamedArgExpr": (_unit,),
    "CoalesceExpr": (_coalesce,),
    "MinMaxExpr": (_extreme,),
    "SelectStmt": (_select,),
    "SubLink": (_exists,),
    "NullTest": (_null,),
}
