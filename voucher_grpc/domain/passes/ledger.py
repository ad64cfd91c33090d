"""Entries of a pass's ledger; its balance is their sum."""

from enum import StrEnum
from typing import NamedTuple

from voucher_grpc.domain.passes.state import Balance


class LedgerKind(StrEnum):
    """What an entry stands for; the CHECK of `ledger_entries.kind` has the same list."""

    OPENING = "OPENING"
    CANCELLATION = "CANCELLATION"
    RESERVATION = "RESERVATION"
    RELEASE = "RELEASE"
    CAPTURE = "CAPTURE"
    REVERSAL = "REVERSAL"


class LedgerEntry(NamedTuple):
    """An entry that is to be written: its kind, and what it adds to the balance."""

    kind: LedgerKind
    amounts: Balance
