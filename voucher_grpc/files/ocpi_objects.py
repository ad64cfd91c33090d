"""OCPI objects (2.1.1, 2.2.1, 2.3.0) from JSON files as operators give them.

A file holds a list of objects, one object, an OCPI response with its `data`, or a page with
its `items`; it may be packed by gzip. Each object is read by itself: one that is wrong is refused
with its position, counted from 1, and the others are read. Keys that are not needed are ignored.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from voucher_grpc.domain.pricing.tariff import Tariff as PricedTariff
from voucher_grpc.edge.wire.checks import Checks
from voucher_grpc.edge.wire.places import location_message
from voucher_grpc.edge.wire.tariffs import element_from_message, tariff_message
from voucher_grpc.errors import BadInput, bad_field
from voucher_grpc.files.input import InputFile, open_input
from voucher_grpc.files.json_stream import stream_objects
from voucher_grpc.files.notes import Notes
from voucher_grpc.files.published_locations import read_location
from voucher_grpc.files.published_tariffs import read_tariff
from voucher_grpc.files.reading import Refusals
from voucher_grpc.ocpi import folded
from voucher_grpc.v1.location_service_pb2 import Location, Tariff

M = TypeVar("M", bound=Message)
BATCH_OBJECTS = 100
_PARTY_KEYS = ("country_code", "party_id")
# Half of what the service takes in one message.
BATCH_BYTES = 512 * 1024


@dataclass(slots=True)
class ObjectBatch(Generic[M]):
    """Messages for one request, with the positions of their objects in the file."""

    messages: list[M] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    size_bytes: int = 0

    def is_full(self) -> bool:
        return len(self.messages) >= BATCH_OBJECTS or self.size_bytes >= BATCH_BYTES


class ObjectFile(Generic[M]):
    """The objects of a file as messages. Iterate over `batches` once, then read the counts.

    `noted` are the parts that were skipped or repaired; `size_bytes` is 0 where it is not
    known. Memory holds one batch, and `ids` if they are kept: those of all objects, also of
    refused ones, by country and party as stated.
    """

    def __init__(self, path: Path, read: Callable[[Any, Notes], Sequence[M]]) -> None:
        self.path = path
        self.read = 0
        self.refusals = Refusals()
        self.noted = Refusals()
        self.bytes_read = 0
        self.size_bytes = 0
        self.ids: dict[tuple[str, str], set[str]] = {}
        self.keeps_ids = False
        self._read = read

    def batches(self) -> Iterator[ObjectBatch[M]]:
        """Batches that a request can hold. Raises BadInput for what is wrong with the file."""
        batch: ObjectBatch[M] = ObjectBatch()
        with open_input(self.path) as file:
            self.size_bytes = file.size_bytes
            for message, position in self._messages(file):
                batch.messages.append(message)
                batch.positions.append(position)
                batch.size_bytes += message.ByteSize()
                if batch.is_full():
                    yield batch
                    batch = ObjectBatch()
        if batch.messages:
            yield batch

    def _keep_id(self, value: object) -> None:
        if isinstance(value, Mapping):
            party = tuple(str(value.get(k) or "").strip().upper() for k in _PARTY_KEYS)
            self.ids.setdefault((party[0], party[1]), set()).add(folded(_name(value).strip()))

    def messages(self) -> list[M]:
        """All of them, for a file that is known to be small."""
        return [message for batch in self.batches() for message in batch.messages]

    def _messages(self, file: InputFile) -> Iterator[tuple[M, int]]:
        for value in stream_objects(file):
            self.read += 1
            self.bytes_read = file.read_bytes
            notes = Notes()
            try:
                if self.keeps_ids:
                    self._keep_id(value)
                messages = self._read(value, notes)
                for note in notes.entries:
                    self.noted.add(self.read, _name(value), str(note), note.kind)
                self.noted.total += notes.total - len(notes.entries)
                for message in messages:
                    yield message, self.read
            except BadInput as refusal:
                self.refusals.add(self.read, _name(value), refusal.message)
            except (ValueError, OverflowError):
                reason = "has a number out of range or text that is not Unicode"
                self.refusals.add(self.read, _name(value), reason)


def read_objects(path: Path) -> list[Any]:
    """All objects of a small file. Raises BadInput for what is wrong with the file as a whole."""
    with open_input(path) as file:
        return list(stream_objects(file))


def location_file(
    path: Path, *, country_code: str = "", party_id: str = ""
) -> ObjectFile[Location]:
    """The locations of a file; the owner is of those that name none (OCPI 2.1.1)."""

    def read(value: object, notes: Notes) -> Sequence[Location]:
        location = read_location(value, notes, country_code=country_code, party_id=party_id)
        return [location_message(location)]

    return ObjectFile(path, read)


@dataclass(frozen=True, slots=True)
class TariffDefaults:
    """What is taken of tariffs that do not state it.

    `country_code` and `party_id` are the owner's, whom OCPI 2.1.1 does not name.
    `default_for_country` makes each the default of its country and currency; without it the
    key of that name decides, an addition to OCPI.
    """

    country_code: str = ""
    party_id: str = ""
    default_for_country: bool = False


class TariffFile(ObjectFile[Tariff]):
    """The tariffs of a file; `untaxed` of their price `components` state no VAT."""

    def __init__(self, path: Path, defaults: TariffDefaults) -> None:
        super().__init__(path, lambda value, notes: [self._tariff(value, notes)])
        self.components = self.untaxed = 0
        self._defaults = defaults

    def _tariff(self, value: object, notes: Notes) -> Tariff:
        defaults = self._defaults
        tariff = read_tariff(
            value, notes, country_code=defaults.country_code, party_id=defaults.party_id
        )
        for key in ("country_code", "party_id"):
            if not getattr(tariff, key):  # as in OCPI 2.1.1
                raise bad_field(key, "is missing: name the owner with --country and --party")
        tariff = _within_limits(tariff, notes)
        if not tariff.elements:
            why = f": {notes.entries[0]}" if notes.entries else ""
            raise bad_field("elements", f"has none that is understood{why}")
        rates = [c.tax_rate for e in tariff.elements for c in e.price_components]
        self.components += len(rates)
        self.untaxed += rates.count(None)
        is_default = defaults.default_for_country or tariff.default_for_country
        return tariff_message(replace(tariff, default_for_country=is_default))


def _within_limits(tariff: PricedTariff, notes: Notes) -> PricedTariff:
    """Without the elements that the service would refuse, which would cost the whole tariff."""
    good = []
    for element, message in zip(tariff.elements, tariff_message(tariff).elements, strict=True):
        checks = Checks()
        element_from_message(checks, f"elements[{element.index}]", message, element.index)
        for violation in checks.violations[:1]:
            notes.skipped(violation.field, violation.description)
        if not checks.violations:
            good.append(element)
    skipped = tariff.skipped_elements + len(tariff.elements) - len(good)
    return replace(tariff, elements=tuple(good), skipped_elements=skipped)


def tariff_file(path: Path, defaults: TariffDefaults = TariffDefaults()) -> TariffFile:
    """The tariffs of a file."""
    return TariffFile(path, defaults)


def _name(value: object) -> str:
    return str(value.get("id") or "") if isinstance(value, Mapping) else ""
