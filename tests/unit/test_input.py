"""Files as people have them: packed, marked, endless, absent, or a pipe."""

import gzip
import json
import os
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voucher_grpc.errors import BadInput
from voucher_grpc.files import input as input_module
from voucher_grpc.files import json_stream
from voucher_grpc.files.input import InputFile, open_input
from voucher_grpc.files.json_stream import stream_objects
from voucher_grpc.files.ocpi_objects import ObjectFile, read_objects, tariff_file
from voucher_grpc.v1.location_service_pb2 import Tariff

TARIFF = {
    "country_code": "NO",
    "party_id": "TST",
    "id": "T",
    "currency": "NOK",
    "elements": [{"price_components": [{"type": "ENERGY", "price": 2.5, "step_size": 1}]}],
}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as refused:
        read_objects(path)
    return refused.value.message


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_read_packed_or_not_and_with_a_mark_or_not(
    mark: bytes, packed: bool, tmp_path: Path
) -> None:
    """Whatever its name says; several members of gzip one after the other too."""
    first, rest = mark + b'[{"id": 1},', b'{"id": 2}]'
    content = gzip.compress(first) + gzip.compress(rest) if packed else first + rest
    assert [{"id": 1}, {"id": 2}] == read_objects(written(tmp_path, content))


@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-32", "UTF-16-LE", "UTF-16-BE"])
def test_another_encoding_is_named(encoding: str, tmp_path: Path) -> None:
    """Also without a mark."""
    named = encoding[:6]
    assert f"is {named}: save it as UTF-8" in refusal(written(tmp_path, "[1]".encode(encoding)))


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"[1, 2, 3]", mtime=0)[:-9], b"\x1f\x8b", b"\x1f\x8b\x08 nonsense"],
    ids=["cut off", "two bytes", "nonsense"],
)
def test_damaged_gzip_is_said(content: bytes, tmp_path: Path) -> None:
    """Cut off, or not gzip behind its first bytes."""
    assert "is damaged gzip: " in refusal(written(tmp_path, content))


def test_a_device_without_an_end_is_refused_at_its_first_bytes() -> None:
    """It is not JSON."""
    with open_input(Path("/dev/zero")) as file:
        with pytest.raises(BadInput, match="is UTF-16"):
            list(stream_objects(file))
        assert file.content_bytes == 0


def test_what_is_unpacked_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file can hold much: a text of 50 MiB in 50 kB."""
    monkeypatch.setattr(input_module, "MAX_INPUT_BYTES", 2**30)
    monkeypatch.setattr(json_stream, "MAX_OBJECT_CHARS", 2**20)
    path = written(tmp_path, gzip.compress(b'["' + b"x" * 50 * 2**20 + b'"]'))
    assert "has an object of more than 1 MiB" in refusal(path)
    monkeypatch.setattr(json_stream, "MAX_OBJECT_CHARS", 2**30)
    monkeypatch.setattr(input_module, "MAX_INPUT_BYTES", 2**24)
    assert "has more than 0 GiB" in refusal(path)


def test_an_object_is_bounded_and_its_neighbours_are_not_counted_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many that are small are read however many there are."""
    monkeypatch.setattr(json_stream, "MAX_OBJECT_CHARS", 2**18)
    small = [{"id": n, "text": "x" * 1_000} for n in range(2_000)]
    assert 2_000 == len(read_objects(written(tmp_path, json.dumps(small).encode())))
    large = [*small[:10], {"text": ["x" * 1_000] * 1_000}]
    assert "has an object of more than 0 MiB" in refusal(
        written(tmp_path, json.dumps(large).encode())
    )


def test_a_pipe_is_read_as_it_is_written(tmp_path: Path) -> None:
    """Also one that nobody has opened for writing yet."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb") as pipe:
            pipe.write(b'[{"id": 1}')
            pipe.flush()
            pipe.write(b"]")

    writer = threading.Timer(0.2, write)
    writer.start()
    assert [{"id": 1}] == read_objects(path)
    writer.join()


def test_a_pipe_that_nobody_writes_to_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With or without somebody who has opened it."""
    monkeypatch.setattr(input_module, "SILENCE_S", 0.1)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "nothing was written to it for 0 s" in refusal(path)
    held = os.open(path, os.O_RDWR)
    try:
        assert "nothing was written to it for 0 s" in refusal(path)
    finally:
        os.close(held)


@pytest.mark.parametrize(
    ("name", "said"), [("absent", "No such file"), (".", "Is a directory"), ("a/b", "No such file")]
)
def test_what_cannot_be_opened_is_said(name: str, said: str, tmp_path: Path) -> None:
    """In the system's words."""
    assert f"cannot be read: {said}" in refusal(tmp_path / name)


def test_decimals_are_exact_and_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    """0.1 is a tenth."""
    [value] = read_objects(written(tmp_path, b'{"id": "x", "price": 0.1}'))
    assert "0.1" == str(value["price"])
    assert "is not UTF-8 (line 2)" in refusal(written(tmp_path, b'[1,\n{"id": "\xff"}]'))


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (100, [100]), (101, [100, 1])])
def test_objects_come_in_batches_that_a_request_can_hold(
    count: int, sizes: list[int], tmp_path: Path
) -> None:
    """Of 100, or of half a MiB; with what of the file was read, for a progress bar."""
    path = written(tmp_path, json.dumps([TARIFF] * count).encode())
    source = tariff_file(path)
    batches = list(source.batches())
    assert sizes == [len(batch.messages) for batch in batches]
    assert list(range(1, count + 1)) == [p for batch in batches for p in batch.positions]
    assert (count, path.stat().st_size) == (source.read, source.size_bytes)
    assert source.bytes_read == (source.size_bytes if count else 0)


def test_large_objects_make_small_batches(tmp_path: Path) -> None:
    """Each ends with the object that reaches half a MiB."""
    large = {**TARIFF, "elements": TARIFF["elements"] * 6_000}  # type: ignore[operator]
    source: ObjectFile[Tariff] = tariff_file(written(tmp_path, json.dumps([large] * 20).encode()))
    batches = list(source.batches())
    assert 20 == sum(len(batch.messages) for batch in batches)
    assert all(len(batch.messages) < 20 for batch in batches)
    assert all(sum(m.ByteSize() for m in batch.messages[:-1]) < 512 * 1024 for batch in batches)


def test_memory_holds_one_batch(tmp_path: Path) -> None:
    """A file is read on only when the batch before was taken."""
    path = written(tmp_path, json.dumps([TARIFF] * 50_000).encode())
    source = tariff_file(path)
    batches = source.batches()
    next(batches)
    assert source.read == 100
    assert source.bytes_read < source.size_bytes / 10


texts = st.text(st.characters(codec="utf-8"), max_size=12)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.decimals(-9, 9, places=3), texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)


class Slow:
    """A file that gives so many bytes at a time."""

    path = Path("slow")
    content_bytes = 0

    def __init__(self, content: bytes, most: int) -> None:
        self._content, self._most = content, most

    def read(self, _: int) -> bytes:
        data, self._content = self._content[: self._most], self._content[self._most :]
        self.content_bytes += len(data)
        return data


def streamed(content: bytes, most: int) -> list[Any]:
    return list(stream_objects(cast(InputFile, Slow(content, most))))


@given(
    objects=st.lists(values, max_size=4),
    most=st.integers(1, 9),
    indent=st.sampled_from([None, 1]),
    escaped=st.booleans(),
)
def test_wherever_a_file_is_cut_its_objects_are_those_of_the_whole(
    objects: list[Any], most: int, indent: int | None, escaped: bool
) -> None:
    """Inside numbers, words, escapes and characters of several bytes."""
    text = json.dumps(objects, indent=indent, ensure_ascii=escaped, default=float)
    whole = json.loads(text, parse_float=Decimal)
    assert whole == streamed(text.encode(), most)
    assert whole == streamed(f'{{"status_code": 1000, "data": {text}}}'.encode(), most)


@given(objects=st.lists(values, min_size=1, max_size=3), data=st.data())
def test_a_file_that_ends_too_early_is_refused(objects: list[Any], data: st.DataObject) -> None:
    """After whatever was read of it."""
    content = json.dumps(objects, default=float).encode()
    end = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(BadInput):
        streamed(content[:end], data.draw(st.integers(1, 9)))
