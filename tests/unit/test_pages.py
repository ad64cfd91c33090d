"""Pages of lists: every row once and in order, never larger than they may be."""

from hypothesis import given
from hypothesis import strategies as st

from voucher_grpc.edge.wire.pages import MAX_PAGE_BYTES, Page, calls_of
from voucher_grpc.edge.wire.paging import read_page_token
from voucher_grpc.v1.location_service_pb2 import ListLocationsResponse, Location

LIMIT_BYTES = 5_000
SCOPE = ("ListLocations", "", "")
# From nothing to more than a page, also around what a token takes.
SIZES = st.lists(st.one_of(st.integers(0, 200), st.integers(3_500, 5_200), st.just(0)), max_size=60)


def row(number: int, size: int) -> bytes:
    """A location with a name of this length."""
    return Location(location_id=str(number), name="n" * size).SerializeToString()


def one_page(
    rows: list[bytes], start: int, max_rows: int, head: bytes = b"", limit: int = LIMIT_BYTES
) -> ListLocationsResponse:
    """The page that begins at a row."""
    page = Page(
        ListLocationsResponse.DESCRIPTOR, "locations", SCOPE, max_rows, head=head, max_bytes=limit
    )
    for number in range(start, len(rows)):
        if not page.has_room(len(rows[number])) or not page.add([str(number)], rows[number]):
            return ListLocationsResponse.FromString(page.answer(more=True).raw)
    return ListLocationsResponse.FromString(page.answer(more=False).raw)


@given(SIZES, st.integers(1, 20))
def test_pages_have_every_row_once_in_order_and_keep_to_their_bounds(
    sizes: list[int], max_rows: int
) -> None:
    """Followed by their tokens. A page is within the bound, or is one row that is larger."""
    rows, found, start = [row(n, size) for n, size in enumerate(sizes)], [], 0
    while True:
        page = one_page(rows, start, max_rows)
        assert len(page.locations) <= max_rows
        assert page.ByteSize() <= LIMIT_BYTES or len(page.locations) == 1
        found += [one.SerializeToString() for one in page.locations]
        if not page.next_page_token:
            break
        [last] = read_page_token(page.next_page_token, SCOPE, 1) or ["none"]
        assert page.locations, "a page with a token goes on"
        assert page.locations[-1].location_id == last
        start = int(last) + 1
    assert rows == found


@given(SIZES, st.integers(1, 20))
def test_a_page_ends_only_before_a_row_that_does_not_fit(sizes: list[int], max_rows: int) -> None:
    """Callers need no more calls than the bounds demand."""
    rows = [row(n, size) for n, size in enumerate(sizes)]
    page = one_page(rows, 0, max_rows)
    count = len(page.locations)
    if page.next_page_token and count < max_rows:
        longer = ListLocationsResponse(next_page_token=page.next_page_token)
        for raw in rows[: count + 1]:
            longer.locations.add().MergeFromString(raw)
        # The token of the next row may be longer by its digits.
        assert longer.ByteSize() > LIMIT_BYTES - 8


@given(st.integers(0, 300))
def test_the_other_fields_of_an_answer_count(size: int) -> None:
    """As the explanations of an answer stand beside what they are compared with."""
    head = ListLocationsResponse(locations=[Location(name="h" * size)]).SerializeToString()
    page = one_page([row(n, 100) for n in range(100)], 0, 100, head)
    assert LIMIT_BYTES - 300 < page.ByteSize() <= LIMIT_BYTES


def test_a_page_is_as_large_as_1_mib_and_no_larger() -> None:
    """To the byte: with what stands for the end of the page it is full, with more it is not."""
    token = one_page([row(0, 10), row(1, 10)], 0, 1).next_page_token
    spare = MAX_PAGE_BYTES - ListLocationsResponse(next_page_token=token).ByteSize()
    first, second = row(0, 500_000), b""
    for size, fits in ((1, False), (0, True)):
        length = spare - len(ListLocationsResponse(locations=[Location()]).SerializeToString())
        length -= len(first) + 20
        second = row(1, length)
        while True:
            both = ListLocationsResponse()
            both.locations.add().MergeFromString(first)
            both.locations.add().MergeFromString(second)
            if both.ByteSize() >= spare + size:
                break
            length += 1
            second = row(1, length)
        assert both.ByteSize() == spare + size
        page = one_page([first, second, row(2, 10)], 0, 10, limit=MAX_PAGE_BYTES)
        assert fits == (len(page.locations) == 2)
        assert page.ByteSize() <= MAX_PAGE_BYTES


def test_an_answer_costs_a_call_for_each_started_100_rows_or_64_kib() -> None:
    """Whichever are more; the smallest costs the call itself."""
    expected = {
        (0, 0): 1,
        (1, 65_536): 1,
        (100, 1): 1,
        (101, 1): 2,
        (1, 65_537): 2,
        (1_000, 65_537): 10,
        (150, 1_048_576): 16,
        (1, 1_048_577): 17,
    }
    assert expected == {(rows, size): calls_of(rows, size) for rows, size in expected}
