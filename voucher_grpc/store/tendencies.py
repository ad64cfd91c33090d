"""Tendencies and places from the columns that statements return."""

from typing import Any

import numpy as np

from voucher_grpc.domain.tendencies.tendency import Layout, Tendency
from voucher_grpc.ocpi import PlaceKey

STATE_BYTES = 8 * Layout.SIZE


def tendency_from_row(row: Any) -> Tendency | None:
    """A tendency from its columns.

    Its state is not to be changed. None without sessions, and where it was stored in
    another layout: until it is rebuilt (by the user's next session, or `tendencies
    rebuild`) it says nothing.
    """
    state = row["state"]
    if not row["sessions"] or len(state) != STATE_BYTES:
        return None
    return Tendency(
        row["sessions"],
        row["first_session_time"],
        row["last_session_time"],
        np.frombuffer(state, dtype="<f8"),
        row["forecast"],
        row["recent"],
    )


def places_from_row(row: Any) -> list[tuple[PlaceKey, float]]:
    """The places with their weights, the greatest first."""
    columns = (row["country_codes"], row["party_ids"], row["location_ids"], row["evse_uids"])
    if columns[0] is None:
        return []
    keys = [PlaceKey(*parts) for parts in zip(*columns, strict=True)]
    return list(zip(keys, row["weights"], strict=True))
