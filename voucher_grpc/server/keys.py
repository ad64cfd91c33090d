"""The keys that sign offers, as they are to be used now, and how they change while it serves."""

from datetime import UTC, datetime
from pathlib import Path

import structlog

from voucher_grpc.domain.offer_ids.keys import OfferKeys, read_offer_keys, signing_key
from voucher_grpc.domain.offer_ids.signer import OfferSigner
from voucher_grpc.runtime.background import keep_working
from voucher_grpc.runtime.reloadable_file import ReloadableFile

log = structlog.get_logger(__name__)

# Keys that change are in use after so long.
CHECK_INTERVAL_S = 1.0


async def keep_offer_keys_fresh(signer: OfferSigner, keys: OfferKeys, path: Path | None) -> None:
    """Take over offer keys that have changed, or whose time has come, until cancelled."""
    file = ReloadableFile(path) if path is not None else None
    in_use: tuple[dict[int, bytes], int] | None = None

    async def check() -> bool:
        nonlocal keys, in_use
        if file is not None and file.changed():
            keys = _changed(file, keys)
        wanted = _to_use(keys)
        if wanted != in_use:
            signer.use(*wanted)
            in_use = wanted
        return False

    await keep_working("offer keys", check, lambda: CHECK_INTERVAL_S)


def _changed(file: ReloadableFile, before: OfferKeys) -> OfferKeys:
    try:
        keys = read_offer_keys(file.read().decode("utf-8", "replace"))
        if not keys:
            raise ValueError("is empty")
    except (OSError, ValueError) as error:
        log.warning("offer_keys_not_read", error=str(error))
        return before
    if keys != before:
        log.info("offer_keys_read", key_ids=[key.key_id for key in keys])
    return keys


def offer_signer(keys: OfferKeys) -> OfferSigner:
    """A signer with the keys as they are to be used now."""
    return OfferSigner(*_to_use(keys))


def _to_use(keys: OfferKeys) -> tuple[dict[int, bytes], int]:
    """The keys by id, and which of them signs now."""
    return {key.key_id: key.secret for key in keys}, signing_key(keys, datetime.now(UTC)).key_id
