"""An offer_id cannot be made, altered or renamed by anybody else, and survives a key's rotation."""

import string
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import SPEC
from voucher_grpc.domain.offer_ids.signer import (
    MAX_OFFER_ID_CHARS,
    OfferSigner,
    OfferTerms,
    offer_digest,
)
from voucher_grpc.errors import Reason, Refusal

KEY, OTHER_KEY = b"\x01" * 32, b"\x02" * 32
SIGNER = OfferSigner({1: KEY}, 1)
TERMS = OfferTerms(
    "alice", "night-pass", 3, 49_000_000, "NOK", datetime(2026, 11, 16, 12, 0, tzinfo=UTC)
)
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)
all_terms = st.builds(
    OfferTerms,
    user_id=visible,
    product_id=st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=64),
    product_revision=st.integers(1, 2**31 - 1),
    price_micros=st.integers(0, 10**12),
    currency_code=st.text(string.ascii_uppercase, min_size=3, max_size=3),
    expire_time=st.datetimes(
        datetime(1970, 1, 1),  # noqa: DTZ001
        datetime(2100, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    ).map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
)


def authentic(offer_id: str, signer: OfferSigner = SIGNER) -> bool:
    """Whether an offer_id is taken for our own."""
    try:
        return signer.read(offer_id).authentic
    except Refusal as refusal:
        assert refusal.reason is Reason.OFFER_INVALID  # noqa: PT017
        return False


def decode(offer_id: str) -> bytes:
    return urlsafe_b64decode(offer_id + "=" * (-len(offer_id) % 4))


def encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


@SPEC
@given(all_terms)
def test_what_was_signed_is_read_back(terms: OfferTerms) -> None:
    """For all terms that the service can offer, within the bound of the field."""
    offer_id = SIGNER.sign(terms)
    read = SIGNER.read(offer_id)
    assert (terms, True) == (read.terms, read.authentic)
    assert len(offer_id) <= MAX_OFFER_ID_CHARS


def test_two_offers_of_the_same_terms_are_two_offers() -> None:
    """Each can be bought once."""
    offers = {SIGNER.sign(TERMS) for _ in range(50)}
    assert 50 == len(offers) == len({offer_digest(offer) for offer in offers})


def test_any_flipped_bit_is_found() -> None:
    """Each single bit of a whole offer_id."""
    raw = decode(SIGNER.sign(TERMS))
    for bit in range(len(raw) * 8):
        forged = bytearray(raw)
        forged[bit // 8] ^= 1 << bit % 8
        assert not authentic(encode(bytes(forged))), f"bit {bit}"


def test_any_other_character_is_found() -> None:
    """Each character replaced by each other one, the stray bits of the last one included."""
    offer_id = SIGNER.sign(TERMS)
    for index in range(len(offer_id)):
        for letter in string.ascii_letters + string.digits + "-_+/= .\0é":
            if letter != offer_id[index]:
                assert not authentic(offer_id[:index] + letter + offer_id[index + 1 :])


def test_any_truncation_and_any_addition_is_found() -> None:
    """From either end."""
    offer_id = SIGNER.sign(TERMS)
    assert not any(authentic(offer_id[:n]) for n in range(len(offer_id)))
    assert not any(authentic(offer_id[n:]) for n in range(1, len(offer_id)))
    assert not any(authentic(offer_id + extra) for extra in ("A", "AA", "AAAA", "=", "==", "\n"))


def test_another_encoding_of_the_same_bytes_is_refused() -> None:
    """One offer has one name: padding, spaces and the other alphabet do not make a second."""
    for signature in (SIGNER.sign(TERMS) for _ in range(20)):
        spellings = {signature + "=", f" {signature}", signature[:9] + "\n" + signature[9:]}
        spellings |= {signature.replace("-", "+").replace("_", "/")} - {signature}
        assert not any(authentic(spelling) for spelling in spellings)


def test_the_user_and_the_product_cannot_lend_each_other_letters() -> None:
    """alice + night-pass is not alicen + ight-pass."""
    raw = bytearray(decode(SIGNER.sign(TERMS)))
    raw[31] += 1  # the length of the user_id
    read = SIGNER.read(encode(bytes(raw)))
    assert ("alicen", False) == (read.terms.user_id, read.authentic)


def test_a_foreign_key_does_not_sign_for_us() -> None:
    """Neither under its own id nor under ours."""
    assert not authentic(OfferSigner({1: OTHER_KEY}, 1).sign(TERMS))
    assert not authentic(OfferSigner({2: OTHER_KEY}, 2).sign(TERMS))


def test_offers_that_are_out_survive_a_rotation() -> None:
    """The old key verifies, the new one signs; without the old one the user is still read."""
    old = SIGNER.sign(TERMS)
    rotated = OfferSigner({2: OTHER_KEY, 1: KEY}, 2)
    assert authentic(old, rotated)
    assert not authentic(rotated.sign(TERMS))
    assert authentic(rotated.sign(TERMS), OfferSigner({2: OTHER_KEY}, 2))
    read = OfferSigner({2: OTHER_KEY}, 2).read(old)
    assert ("alice", False) == (read.terms.user_id, read.authentic)


def test_keys_of_any_length_from_32_bytes_on_count_in_full() -> None:
    """Two keys that differ in their hundredth byte are two keys."""
    long, other = b"k" * 100, b"k" * 99 + b"l"
    offer_id = OfferSigner({1: long}, 1).sign(TERMS)
    assert authentic(offer_id, OfferSigner({1: long}, 1))
    assert not authentic(offer_id, OfferSigner({1: other}, 1))


@pytest.mark.parametrize(
    ("keys", "signing"), [({1: KEY}, 2), ({1: b"short"}, 1), ({256: KEY}, 256), ({-1: KEY}, -1)]
)
def test_a_weak_or_missing_key_is_refused_at_the_start(
    keys: dict[int, bytes], signing: int
) -> None:
    """Better no service than one whose offers anybody can sign."""
    with pytest.raises(ValueError, match="key"):
        OfferSigner(keys, signing)


@SPEC
@given(st.one_of(st.text(max_size=600), st.binary(max_size=400).map(encode)))
def test_rubbish_is_never_authentic_and_never_an_error_of_another_kind(offer_id: str) -> None:
    """Any text at all is an offer or OFFER_INVALID."""
    assert not authentic(offer_id)


@SPEC
@given(st.binary(min_size=1, max_size=40), st.binary(min_size=1, max_size=40))
def test_an_offer_that_can_be_read_names_a_user_and_a_product_that_could_exist(
    user: bytes, product: bytes
) -> None:
    """What a forged offer_id says reaches the database as a key, so it has the form of one."""
    head = decode(SIGNER.sign(TERMS))[:31]
    forged = encode(head + bytes([len(user)]) + user + product + b"\0" * 16)
    try:
        terms = SIGNER.read(forged).terms
    except Refusal as refusal:
        assert refusal.reason is Reason.OFFER_INVALID  # noqa: PT017
        return
    assert all("\x21" <= letter <= "\x7e" for letter in terms.user_id + terms.product_id)
    assert len(terms.user_id) <= 64


@pytest.mark.parametrize(("key_id", "good"), [(-1, False), (0, True), (255, True), (256, False)])
def test_the_id_of_a_key_is_one_byte(key_id: int, good: bool) -> None:
    """It stands in the offer_id."""
    if good:
        signer = OfferSigner({key_id: KEY}, key_id)
        assert signer.read(signer.sign(TERMS)).authentic
    else:
        with pytest.raises(ValueError, match="ids of 0 to 255"):
            OfferSigner({key_id: KEY}, key_id)
