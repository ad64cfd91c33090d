"""Messages as bytes that are put together from prepared parts.

The bytes of a message are those of its fields, one after the other, in any
order (Protocol Buffers, "Encoding"). An answer made so costs a tenth of one that
is filled field by field. What is made here is parsed in tests and compared
with the message that it stands for.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

_DOUBLE = struct.Struct("<d")
_VARINT_TYPE, _FIXED64_TYPE, _LENGTH_TYPE = 0, 1, 2


class Encoded(NamedTuple):
    """A message as its bytes; a call that is answered with it sends them as they are."""

    raw: bytes


# A message as the bytes of its fields, one after the other, each made when it is its turn.
Pieces: TypeAlias = Iterator[bytes]


def _seven_bits(value: int) -> bytes:
    """A non-negative integer, seven bits a byte, the lowest first."""
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


# Nearly all lengths and most numbers are below.
_KEPT = 1 << 14
_VARINTS = [_seven_bits(value) for value in range(_KEPT)]


def varint(value: int) -> bytes:
    """A non-negative integer."""
    if value < _KEPT:
        return _VARINTS[value]
    if value < 1 << 21:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    return _seven_bits(value)


def _tag(number: int, wire_type: int) -> bytes:
    """What stands before a field."""
    return varint(number << 3 | wire_type)


def part_tag(number: int) -> bytes:
    """What stands before the length of a text or a message in a field."""
    return _tag(number, _LENGTH_TYPE)


def integer_tag(number: int) -> bytes:
    """What stands before an integer in a field."""
    return _tag(number, _VARINT_TYPE)


def double_tag(number: int) -> bytes:
    """What stands before a double in a field."""
    return _tag(number, _FIXED64_TYPE)


def part(number_tag: bytes, content: bytes) -> bytes:
    """A field that is a text in UTF-8 or a message; `number_tag` is its `part_tag`."""
    length = len(content)
    return number_tag + (_VARINTS[length] if length < _KEPT else varint(length)) + content


def integer(number_tag: bytes, value: int) -> bytes:
    """A field of type int32, int64, bool or enum; zero is not sent."""
    if value == 0:
        return b""
    return number_tag + varint(value if value > 0 else value + (1 << 64))


class Doubles:
    """Repeated messages of a name (field 1) and a double (field 2) with always the same names."""

    def __init__(self, number: int, names: Sequence[str]) -> None:
        layout, prefixes = "<", []
        for name in names:
            text = part(part_tag(1), name.encode())
            length = varint(len(text) + 1 + _DOUBLE.size)
            prefixes.append(part_tag(number) + length + text + double_tag(2))
            layout += f"{len(prefixes[-1])}sd"
        self._mixed: list[bytes | float] = [item for prefix in prefixes for item in (prefix, 0.0)]
        self._struct = struct.Struct(layout)

    def encode(self, values: Sequence[float]) -> bytes:
        """The messages with these values, one for each name."""
        mixed = self._mixed.copy()
        mixed[1::2] = values
        return self._struct.pack(*mixed)
