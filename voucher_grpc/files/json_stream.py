"""The objects of a JSON file, one after the other: memory holds one of them.

A file holds a list of objects, one object, an OCPI response with its `data` (OCPI 2.2.1, 4.1.7
Response format), or a page with its `items`.

The decoder of the standard library is given as much text as an object needs: it stops at the end
of a value, and where the text ends too early more is read (docs/decisions.md).
"""

import codecs
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

from voucher_grpc.errors import BadInput
from voucher_grpc.files.input import InputFile, file_error
from voucher_grpc.printable import printable

# What is read for one object. A location may have 2 MB.
MAX_OBJECT_CHARS = 8 * 2**20
_CHUNK_BYTES = 2**16
_LISTS = ("data", "items")
_OCPI_SUCCESS = range(1000, 2000)
_SPACE = " \t\r\n"
# Where a text is cut off inside a number, a word or an escape, the fault is seen so far before
# its end at most.
_CUT_CHARS = 16


def stream_objects(file: InputFile) -> Iterator[Any]:
    """The objects; their decimals are exact. Raises BadInput for what is wrong with the file."""
    text = _Text(file)
    try:
        yield from _objects(text)
    except json.JSONDecodeError as error:
        raise text.refusal(f"is not JSON: {error.msg} ({text.place(error)})") from None
    except RecursionError:
        raise text.refusal("is nested too deeply") from None
    except (ValueError, ArithmeticError) as error:  # a number that is none, or much too long
        raise text.refusal(f"is not JSON: {printable(error, 200)}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


class _Text:
    """The text of a file from where it is read on."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._json = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant)
        self._text = ""
        self._at = 0
        self._ended = False
        # Where `_text` begins.
        self._line, self._column = 1, 0

    def refusal(self, message: str) -> BadInput:
        return file_error(self._file.path, message)

    def place(self, error: json.JSONDecodeError) -> str:
        column = error.colno + (self._column if error.lineno == 1 else 0)
        return f"line {self._line + error.lineno - 1}, column {column}"

    def _more(self) -> None:
        """Read on, the more the longer the present value is: it is decoded anew."""
        taken, rest = self._text[: self._at], self._text[self._at :]
        self._line += taken.count("\n")
        self._column = len(taken.rpartition("\n")[2]) + (0 if "\n" in taken else self._column)
        if len(rest) > MAX_OBJECT_CHARS:
            mib = MAX_OBJECT_CHARS // 2**20
            raise self.refusal(f"has an object of more than {mib} MiB")
        data = self._file.read(max(_CHUNK_BYTES, len(rest)))
        self._ended = not data
        try:
            self._text, self._at = rest + self._decode(data, final=self._ended), 0
        except UnicodeDecodeError as error:
            line = self._line + rest.count("\n") + error.object.count(b"\n", 0, error.start)
            raise self.refusal(f"is not UTF-8 (line {line})") from None

    def next(self) -> str:
        """The next character that is no space, "" at the end; it is not taken."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def take(self, expected: str) -> str:
        """The next character, which must be one of these."""
        found = self.next()
        if not found or found not in expected:
            what = " or ".join(f"'{character}'" for character in expected)
            raise json.JSONDecodeError(f"Expecting {what}", self._text, self._at)
        self._at += 1
        return found

    def value(self) -> Any:
        """The value that begins with the next character."""
        self.next()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended or not self._is_cut(error):
                    raise
            else:
                if self._ended or not self._goes_on(value, end):
                    self._at = end
                    return value
            self._more()

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        near_the_end = error.pos >= len(self._text) - _CUT_CHARS
        return near_the_end or error.msg.startswith("Unterminated string")

    def _goes_on(self, value: Any, end: int) -> bool:
        """Whether more may belong to a number: of "12." the decoder takes 12."""
        if not isinstance(value, (int, Decimal)):
            return False
        rest = self._text[end : end + _CUT_CHARS]
        return len(rest) < _CUT_CHARS and not rest.lstrip(".eE+-")

    def items(self) -> Iterator[Any]:
        """The values of a list that begins with the next character."""
        self.take("[")
        if self.next() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return


def _objects(text: _Text) -> Iterator[Any]:
    begins = text.next()
    if begins == "[":
        yield from text.items()
    elif begins == "{":
        yield from _of_object(text)
    elif not begins:
        raise text.refusal("is empty")
    else:
        text.value()
        raise text.refusal(
            "must hold OCPI objects: a list, one object, or a response with data or items"
        )
    if text.next():
        text.take("")


def _of_object(text: _Text) -> Iterator[Any]:
    """The object that a file is, or those in a response or page."""
    document: dict[str, Any] = {}
    streamed = False
    text.take("{")
    more = text.next() != "}"
    while more:
        if text.next() != '"':
            text.take('"')
        key = text.value()
        text.take(":")
        if key in _LISTS and text.next() == "[" and "id" not in document:
            _expect_success(text, document)
            streamed = True
            yield from text.items()
        else:
            document[key] = text.value()
        more = text.take(",}") == ","
    if not document and not streamed:
        text.take("}")
    _expect_success(text, document)
    if streamed:
        return
    if "id" in document or not ({"status_code", *_LISTS} & document.keys()):
        yield document
    elif isinstance(document.get("data"), dict):
        yield document["data"]
    else:
        raise text.refusal("is an OCPI response without data")


def _expect_success(text: _Text, document: dict[str, Any]) -> None:
    status = document.get("status_code")
    if isinstance(status, int) and status not in _OCPI_SUCCESS:
        said = printable(document.get("status_message") or "no message")
        raise text.refusal(f"is an OCPI error, status_code {status}: {said}")
