"""What reaches a terminal or a log shows itself, and does nothing."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.progress import TextColumn

from voucher_grpc.files.catalogue import catalogue_text, parse_catalogue
from voucher_grpc.files.reading import MAX_NAME_CHARS, MAX_REASON_CHARS, Refusals
from voucher_grpc.printable import MAX_LINES, MAX_VALUE_CHARS, printable, printable_lines
from voucher_grpc.terminal import MAX_LINE_CHARS, bar, cell, say

_OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
PRINTABLE_TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"])
)


def obeyed(text: str) -> list[str]:
    """The characters that a terminal or a reader of lines would act on."""
    return [character for character in text if unicodedata.category(character) in _OBEYED]


@given(ANY_TEXT, st.integers(3, 200))
@example("\x1b[31m\x1b]52;c;aGk=\x07", 200)
@example("\x9b2J\u202e\u2066\u2028\ufeff\U000e0041\udc9b\r\n\t\0\x7f", 200)
def test_whatever_comes_in_nothing_goes_out_that_a_terminal_obeys(text: str, bound: int) -> None:
    """Sequences, overrides of direction, line ends, surrogates; in one line within its bound."""
    shown = printable(text, bound)
    assert [] == obeyed(shown)
    assert len(shown) <= bound
    assert shown.encode().decode() == shown


@given(PRINTABLE_TEXT)
@example("충전 패스 한밤")
@example("Nattåpent 🔋⚡️🇳🇴")
@example("1\u00a0234,50\u202fkr　終")
@example("C:\\temp [bold]:warning:")
def test_what_can_be_printed_stays_as_it_is(text: str) -> None:
    """Names in any script, emoji, spaces of other scripts and backslashes are not touched."""
    assert text == printable(text, max(3, len(text)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("one\nvoucher-grpc: two\r", "one\\nvoucher-grpc: two\\r"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("a\u200b\u2028b", "a\\u200b\\u2028b"),
        ("\udc9b", "\\udc9b"),
        ("\U000e0041", "\\U000e0041"),
        ("👩\u200d🔧", "👩\\u200d🔧"),
        (12, "12"),
        (None, "None"),
    ],
)
def test_an_escape_shows_which_character_it_was(value: object, shown: str) -> None:
    """An operator can find it in the file."""
    assert shown == printable(value)


def test_what_is_too_long_is_cut_between_characters_and_says_so() -> None:
    """An escape is whole or not there: half of one would read as another."""
    assert "aaaa..." == printable("a" * 8, 7)
    assert "aaaaaaa" == printable("a" * 7, 7)
    assert "a..." == printable("a\x1b\x1b", 7)
    assert "a\\x1b..." == printable("a\x1b\x1b", 8)
    assert MAX_VALUE_CHARS == len(printable("a" * 10**7))


@given(ANY_TEXT)
def test_a_trace_keeps_its_lines_and_gains_none_that_looks_like_ours(text: str) -> None:
    """Each line is indented; only line ends of the trace itself are line ends."""
    shown = printable_lines(text)
    assert all(line.startswith("  ") for line in shown.split("\n"))
    assert {"\n"} >= set(obeyed(shown))


def test_of_a_long_trace_the_end_is_kept() -> None:
    """The end says what went wrong."""
    lines = printable_lines("\n".join(map(str, range(MAX_LINES + 5)))).split("\n")
    assert ["  ...", "  5", "  6"] == lines[:3]
    assert f"  {MAX_LINES + 4}" == lines[-1]
    assert MAX_LINES + 1 == len(lines)


def test_a_line_is_printed_whole_without_markup_or_emoji_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`[/]` alone would end a command with MarkupError, and `:key:` is a good name."""
    say("[bold]a[/bold] [/] [link=https://example.org]b[/link] :key:\n\x1b[31m", "red")
    say("c" * (MAX_LINE_CHARS + 1), err=True)
    out, err = capsys.readouterr()
    assert "[bold]a[/bold] [/] [link=https://example.org]b[/link] :key:\\n\\x1b[31m\n" == out
    assert "c" * (MAX_LINE_CHARS - 3) + "...\n" == err


def test_a_cell_has_the_lines_it_was_given_and_no_more() -> None:
    """A line end in a name does not make a line of the table."""
    assert "a\\nb\n[red]c" == cell("a\nb", "[red]c").plain


def test_a_bar_shows_the_name_of_a_file_as_it_is() -> None:
    """Read as markup, `[/]` would end an import that has only just begun."""
    progress = bar()
    progress.add_task("[/] [red]:key:")
    column = progress.columns[0]
    assert isinstance(column, TextColumn)
    assert "[/] [red]:key:" == column.render(progress.tasks[0]).plain


def test_refusals_of_a_file_are_kept_within_bounds() -> None:
    """A file's ids and the service's words may be of any length."""
    refusals = Refusals()
    for number in range(3):
        refusals.add(number, "i" * 10**6, "r" * 10**6)
    assert ["r" * MAX_REASON_CHARS] == list(refusals.reasons)
    assert {"i" * MAX_NAME_CHARS} == {entry.name for entry in refusals.examples}


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=100))
@example("gnp.\u202eexe\nnext\u200b")
@example("충전 패스: \u2066한밤")
def test_an_exported_catalogue_can_be_shown_on_a_terminal_and_reads_back(name: str) -> None:
    """`catalogue export` writes to standard output; YAML has escapes of its own."""
    products = parse_catalogue(PRODUCT_NAMED.format(quoted(name)))
    assert name == products[0].description
    exported = catalogue_text(products)
    assert {"\n"} >= set(obeyed(exported))
    assert products == parse_catalogue(exported)


@pytest.mark.parametrize("name", ["0E0", "1e5", "-2E+7", "NULL", "True", "12", "1.5", ".5", "~"])
def test_text_that_looks_like_a_number_stays_text(name: str) -> None:
    """In YAML 1.2 a number needs no point."""
    products = parse_catalogue(PRODUCT_NAMED.format(quoted(name)))
    assert name == products[0].description
    assert products == parse_catalogue(catalogue_text(products))


PRODUCT_NAMED = """\
products:
  - product_id: one
    display_name: One
    price: 49.00 NOK
    benefit: {{energy_bundle_kwh: 60}}
    validity: {{days: 30}}
    time_zone: Europe/Oslo
    description: {}
"""


def quoted(text: str) -> str:
    """A YAML scalar in double quotes, in ASCII."""
    return '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'
