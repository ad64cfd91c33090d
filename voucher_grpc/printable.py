"""Text from files, callers and the network, made fit for a terminal or a log.

A terminal obeys what it is sent: escape sequences move the cursor, change what was printed before,
set the clipboard and make links; a line end in a value begins a line that looks like ours; an
override of the direction shows a name as another one. So whatever is not printable is written
as an escape (`\\x1b`, `\\n`, `\\u202e`), and no value is printed without a bound.
"""

import unicodedata

# Of one value. The longest text that the service keeps, a description, has as many.
MAX_VALUE_CHARS = 1_000
MAX_LINES = 200
_CUT = "..."


def printable(value: object, max_chars: int = MAX_VALUE_CHARS) -> str:
    """The text of a value in one line of at most `max_chars` characters (3 or more).

    Letters, marks, digits, symbols and spaces of all scripts stay as they are. Escaped are
    control and format characters (C0, C1, directions, zero width), line and paragraph
    separators, surrogates, and characters that are private or not assigned. What is cut off is
    shown by "..." at the end.
    """
    text = str(value)
    if len(text) <= max_chars and text.isprintable():
        return text
    pieces = [_escaped(character) for character in text[: max_chars + 1]]
    if sum(map(len, pieces)) <= max_chars:
        return "".join(pieces)
    kept, length = [], len(_CUT)
    for piece in pieces:
        length += len(piece)
        if length > max_chars:
            break
        kept.append(piece)
    return "".join(kept) + _CUT


def printable_lines(text: str) -> str:
    """The last lines of a text of many, such as a trace, each printable and indented.

    Indented, so that none of them can be taken for a line of another kind.
    """
    lines = text.rstrip("\n").split("\n")
    cut = [_CUT] if len(lines) > MAX_LINES else []
    return "\n".join(f"  {printable(line)}" for line in [*cut, *lines[-MAX_LINES:]])


def _escaped(character: str) -> str:
    # Of what Python does not call printable, only the spaces of other scripts are shown as such.
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
