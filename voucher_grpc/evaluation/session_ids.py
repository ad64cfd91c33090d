"""Ids for evaluations, which need to tell sessions, users and places apart and no more."""

import re
from collections import defaultdict

from voucher_grpc.edge.wire.checks import MAX_ID_CHARS, MAX_OCPI_ID_CHARS
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

_VISIBLE = re.compile(r"[!-~]+")


class SessionIds:
    """Gives ids that the service would refuse, such as one with a space, one that it takes.

    The same id gets the same one. Ids that the service takes stay.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, int]] = defaultdict(dict)

    def replace(self, session: ChargingSession) -> None:
        """Make the ids of a session good."""
        session.session_id = self._good("session", session.session_id, MAX_ID_CHARS)
        session.user_id = self._good("user", session.user_id, MAX_ID_CHARS)
        place = session.location
        place.location_id = self._good("location", place.location_id, MAX_OCPI_ID_CHARS)
        if place.evse_uid:
            place.evse_uid = self._good("evse", place.evse_uid, MAX_OCPI_ID_CHARS)

    def _good(self, kind: str, said: str, most_chars: int) -> str:
        if len(said) <= most_chars and _VISIBLE.fullmatch(said):
            return said
        numbers = self._numbers[kind]
        # The first character is one that the ids of a file hardly begin with.
        return f"~{kind}-{numbers.setdefault(said, len(numbers))}"
