"""The catalogue file: YAML to products and back, and what would change.

The keys are listed in docs/catalogue-file.md. The file is read by the rules of
YAML 1.2: `NO` is a country and not false, `22:00` is a time and not 1320, and a
key that stands twice is refused. Decimals are exact.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from voucher_grpc.domain.catalogue.document import terms_from_document, terms_to_document
from voucher_grpc.domain.catalogue.product import Terms
from voucher_grpc.domain.catalogue.values import MAX_KEY_CHARS, money_from_text
from voucher_grpc.edge.wire.checks import Checks
from voucher_grpc.edge.wire.products import terms_from_message, terms_message
from voucher_grpc.errors import bad_field
from voucher_grpc.files.input import file_error
from voucher_grpc.files.reading import read_text
from voucher_grpc.money import Money
from voucher_grpc.printable import printable
from voucher_grpc.v1 import product_pb2

MAX_PRODUCTS = 100_000
# Beside the products: what a kWh costs without a pass, for evaluations only.
PAY_AS_YOU_GO = "pay_as_you_go_per_kwh"
_HEADER = "# Catalogue of charging passes; docs/catalogue-file.md explains the keys.\n"


class _Loader(yaml.SafeLoader):
    """Safe, and with the plain values of YAML 1.2's core schema."""

    # Nothing but text until the resolvers below are added.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - read by PyYAML as it is

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            self._refuse_doubles(node)
        return super().construct_mapping(node, deep=deep)  # type: ignore[arg-type]

    def _refuse_doubles(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                continue
            if key.value in seen:
                name = printable(key.value, MAX_KEY_CHARS)
                problem = f'the key "{name}" stands twice'
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)


def _decimal(_: yaml.SafeLoader, node: yaml.ScalarNode) -> Decimal | str:
    value = str(node.value)
    return Decimal(value) if re.fullmatch(_FLOAT, value) else value


def _integer(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int | str:
    value = str(node.value)
    return int(value) if re.fullmatch(_INTEGER, value) else value


class _Dumper(yaml.SafeDumper):
    """Writes what a terminal must not be sent (overrides of direction, zero width) as escapes."""

    def write_double_quoted(self, text: str, split: bool = True) -> None:
        unicode = self.allow_unicode
        self.allow_unicode = unicode and not _needs_escapes(text)
        super().write_double_quoted(text, split)
        self.allow_unicode = unicode


def _needs_escapes(text: str) -> bool:
    return any(c != "\n" and printable(c) != c for c in text)


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _needs_escapes(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text_node)
_INTEGER = r"[-+]?[0-9]{1,40}"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,9})?"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    for _kind in (_Loader, _Dumper):  # what the one would not read as text the other quotes
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
        )
_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_catalogue(path: Path) -> list[Terms]:
    """The products of a file. Raises BadInput as `parse_catalogue` does."""
    try:
        return parse_catalogue(read_text(path))
    except yaml.MarkedYAMLError as error:
        raise file_error(path, _syntax_error(error)) from None
    except yaml.YAMLError as error:
        raise file_error(path, f"is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise file_error(path, "is nested too deeply") from None


def read_pay_as_you_go(path: Path) -> Money:
    """What a kWh costs without a pass in an evaluation, tax included. Raises BadInput."""
    read_catalogue(path)  # says what is wrong with the file as a whole
    value = yaml.load(read_text(path), _Loader)  # noqa: S506 - a SafeLoader
    if PAY_AS_YOU_GO not in value:
        raise bad_field(PAY_AS_YOU_GO, 'is missing: an evaluation needs it, such as "5.90 NOK"')
    return money_from_text(value[PAY_AS_YOU_GO], PAY_AS_YOU_GO)


def _syntax_error(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"is not YAML: {error.problem or error.context}{where}"


def parse_catalogue(text: str) -> list[Terms]:
    """The products of a catalogue file's text, in its order.

    Raises BadInput with the path of the first thing that is wrong, for example
    `products[3].price`, and yaml.YAMLError for what is not YAML.
    """
    try:
        # The loader is a SafeLoader, so this is safe_load with YAML 1.2's values.
        value = yaml.load(text, _Loader)  # noqa: S506
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from None
    if not isinstance(value, Mapping):
        raise bad_field("products", "is missing: the file must be a mapping with this one key")
    for key in value:
        if key not in ("products", PAY_AS_YOU_GO):
            name = printable(key, MAX_KEY_CHARS)
            raise bad_field(name, f"is not a known key; here are products and {PAY_AS_YOU_GO}")
    products = value.get("products")
    if not isinstance(products, list):
        raise bad_field("products", "must be a list")
    if len(products) > MAX_PRODUCTS:
        raise bad_field("products", f"must be at most {MAX_PRODUCTS}, has {len(products)}")
    return _terms(products)


def _terms(products: Sequence[Any]) -> list[Terms]:
    found: list[Terms] = []
    places: dict[str, int] = {}
    for index, item in enumerate(products):
        path = f"products[{index}]"
        terms = terms_from_document(item, path)
        check_terms(terms, path)
        if terms.product_id in places:
            first = places[terms.product_id]
            raise bad_field(f"{path}.product_id", f"stands in products[{first}] already")
        places[terms.product_id] = index
        found.append(terms)
    return found


def check_terms(terms: Terms, path: str) -> None:
    """The service's own bounds, so that a bad file is refused before any of it is applied.

    What only the service knows is judged there: the currency's smallest unit,
    what is sold already. Raises BadInput.
    """
    try:
        message = terms_message(terms)
    except (ValueError, OverflowError):
        raise bad_field(path, "has a number out of range or text that is not Unicode") from None
    checks = Checks()
    terms_from_message(checks, path, message, lambda _: 1)
    checks.done()


def terms_of(product: product_pb2.Product) -> Terms:
    """The terms of a product that the service sent."""
    return terms_from_message(Checks(), "product", product, lambda _: 1)


def catalogue_text(products: Iterable[Terms]) -> str:
    """The catalogue file of products; `parse_catalogue` reads them back unchanged.

    What YAML 1.1 or 1.2 would read as something else than text is in quotes.
    """
    documents = [terms_to_document(terms) for terms in products]
    body = yaml.dump(
        {"products": documents},
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        indent=2,
    )
    return _HEADER + body


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A key of a product with its old and new value in words, "" where there is none."""

    field: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What a file changes in a catalogue, each list by product_id or in the file's order.

    `missing` are on sale but not in the file; `retired` are in the file although
    the catalogue has retired them for good, which cannot be applied.
    """

    added: tuple[Terms, ...]
    changed: tuple[tuple[Terms, tuple[FieldChange, ...]], ...]
    unchanged: tuple[str, ...]
    missing: tuple[str, ...]
    retired: tuple[str, ...]


def difference(
    wanted: Sequence[Terms], present: Mapping[str, Terms], retired: Iterable[str] = ()
) -> Difference:
    """What separates a file (`wanted`) from the products on sale (`present`)."""
    gone = frozenset(retired)
    listed = {terms.product_id for terms in wanted}
    live = [terms for terms in wanted if terms.product_id not in gone]
    return Difference(
        added=tuple(t for t in live if t.product_id not in present),
        changed=tuple(
            (t, field_changes(present[t.product_id], t))
            for t in live
            if t.product_id in present and present[t.product_id] != t
        ),
        unchanged=tuple(t.product_id for t in live if present.get(t.product_id) == t),
        missing=tuple(sorted(present.keys() - listed)),
        retired=tuple(t.product_id for t in wanted if t.product_id in gone),
    )


def field_changes(old: Terms, new: Terms) -> tuple[FieldChange, ...]:
    """The keys in which two products differ, in the file's order."""
    before, after = _flat(terms_to_document(old)), _flat(terms_to_document(new))
    return tuple(
        FieldChange(key, before.get(key, ""), after.get(key, ""))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    )


def _flat(value: object, path: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, list):
        return {path: ", ".join(str(item) for item in value)}
    else:
        return {path: str(value)}
    found: dict[str, str] = {}
    for key, item in items:
        found.update(_flat(item, key))
    return found
