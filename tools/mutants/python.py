"""Mutations of Python code: cosmic-ray's operators, and two of ours.

Left out, because no test should notice it: type annotations and aliases of types; what is written
to the log and the texts of errors (f-strings, arguments of `log`); decorators (`slots`, `frozen`);
`strict=` of zip, a guard against our own mistakes; code for type checkers only.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider

from tools.mutants.model import Change

# Of cosmic-ray's comparisons and binary operators the ones a person gets wrong: a bound that is
# one off, a condition or a sign turned round, a factor on the wrong side.
_NAMES = (
    *("AddNot", "NumberReplacer", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue"),
    *("ReplaceContinueWithBreak", "ZeroIterationForLoop"),
    *("ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_Not"),
    *(
        f"ReplaceComparisonOperator_{name}"
        for name in (
            *("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "LtE_Gt", "Gt_LtE", "GtE_Lt"),
            *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
        )
    ),
    *(
        f"ReplaceBinaryOperator_{name}"
        for name in (
            *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv"),
            *("Pow_Mul", "BitOr_BitAnd", "BitAnd_BitOr", "RShift_LShift", "LShift_RShift"),
        )
    ),
)


_OPPOSITES = {
    "min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil",
    "bisect_left": "bisect_right", "bisect_right": "bisect_left",
}  # fmt: skip


class DropOperand(Operator):  # type: ignore[misc]
    """Leaves out one operand of `and` or `or`."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """See Operator."""
        if node.type in {"and_test", "or_test"}:
            for operand in node.children[::2]:
                yield (operand.start_pos, operand.end_pos)

    def mutate(self, node: Any, index: int) -> Any:
        """See Operator."""
        gone = slice(0, 2) if index == 0 else slice(2 * index - 1, 2 * index + 1)
        prefix = node.get_first_leaf().prefix
        del node.children[gone]
        node.get_first_leaf().prefix = prefix
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """See Operator."""
        return (Example("x = a and b", "x = b"), Example("x = a or b", "x = a", 1))


class SwapFunction(Operator):  # type: ignore[misc]
    """Takes the opposite function."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """See Operator."""
        if node.type == "name" and node.value in _OPPOSITES and self._called(node):
            yield (node.start_pos, node.end_pos)

    @staticmethod
    def _called(node: Any) -> bool:
        leaf = node.get_next_leaf()
        return leaf is not None and leaf.value == "(" and node.parent.type != "funcdef"

    def mutate(self, node: Any, index: int) -> Any:
        """See Operator."""
        return parso.python.tree.Name(_OPPOSITES[node.value], node.start_pos, prefix=node.prefix)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """See Operator."""
        return (Example("x = min(a, b)", "x = max(a, b)"),)


def _operators() -> dict[str, Operator]:
    provider = OperatorProvider()
    found = {name: provider[name]() for name in _NAMES}
    return {**found, "DropOperand": DropOperand(), "SwapFunction": SwapFunction()}


_Span = tuple[tuple[int, int], tuple[int, int]]


def changes(text: str, *, constants: bool = True) -> list[list[Change]]:
    """The places in a module, each with the ways to change it; without `constants` not its own."""
    tree = ast.parse(text)
    left_out = list(_left_out(tree, constants=constants))
    statements = _statements(tree)
    places: dict[_Span, list[Change]] = defaultdict(list)
    nodes = list(ast_nodes(get_ast(text)))
    lines_of_text = text.splitlines()
    for name, operator in _operators().items():
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(positions):
            inside = any(first <= start < last for first, last in left_out)
            if not inside and not _is_marker(lines_of_text, start):
                lines = _lines(statements, start[0], end[0])
                places[start, end].append(_change(text, name, operator, occurrence, lines))
    return [places[span] for span in sorted(places)]


def _is_marker(lines: list[str], start: tuple[int, int]) -> bool:
    """Whether it is the `*` before parameters that have names, which is no operator."""
    return lines[start[0] - 1][start[1] :].startswith(("*,", "/,"))


def _change(text: str, name: str, operator: Operator, occurrence: int, lines: range) -> Change:
    def make() -> str:
        mutated = mutate_code(text, operator, occurrence)
        ast.parse(mutated)
        if mutated == text:
            raise ValueError(f"{name} changes nothing")
        return str(mutated)

    return Change(name, lines, "", make)


def _statements(tree: ast.Module) -> list[range]:
    """The lines of simple statements, and of what stands before the body of the others."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            found.append(range(node.lineno, max(last, node.lineno) + 1))
    return found


def _lines(statements: list[range], first: int, last: int) -> range:
    around = [lines for lines in statements if first in lines and last in lines]
    return min(around, key=len, default=range(first, last + 1))


def _left_out(tree: ast.Module, *, constants: bool) -> Iterator[_Span]:
    for node in ast.walk(tree):
        for part in _parts_left_out(node):
            yield _span(part)
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and (
            not constants or _is_alias(node.value)
        ):
            yield _span(node)


def _is_alias(value: ast.expr | None) -> bool:
    return isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)


def _parts_left_out(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
        yield node.annotation
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from node.decorator_list
        if node.returns is not None:
            yield node.returns
    elif isinstance(node, ast.ClassDef):
        yield from node.decorator_list
    elif isinstance(node, ast.JoinedStr):
        yield node
    elif isinstance(node, ast.Call):
        yield from _arguments_left_out(node)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        yield node


def _arguments_left_out(node: ast.Call) -> Iterator[ast.AST]:
    yield from (keyword.value for keyword in node.keywords if keyword.arg == "strict")
    match node.func:
        case ast.Attribute(value=ast.Name(id="log")):
            yield node
        case ast.Name(id="isinstance" | "cast" | "TypeVar"):
            yield node.args[-1]


def _span(node: Any) -> _Span:
    # ast counts columns in bytes; our lines are ASCII up to what is mutated.
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
