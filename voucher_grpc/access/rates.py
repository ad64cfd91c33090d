"""How many calls a caller may make: one count for all workers of a server.

The generic cell rate algorithm (ITU-T I.371): each caller has a theoretical arrival
time that moves on by 1/rate with every call; a call is late by as much as that time
lies ahead, and refused once that is more than the burst allows. So a caller needs one
number, and the answer to "when again?" falls out.

The numbers lie in memory, each in the slot that its caller's key hashes to, under
a random key. Several workers of a server map one file; a lock on the slot's
bytes keeps two of them apart, and the kernel gives it back if one dies holding it.
Two callers that hash alike share a rate, one chance in `SLOTS` for each pair. A slot is
not cleared: a number of the past means a caller that may send its whole burst.
"""

import fcntl
import hashlib
import math
import mmap
import os
import secrets
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from voucher_grpc.access.principal import ANONYMOUS, Principal
from voucher_grpc.access.roles import Role
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.shared_memory import open_shared_memory

SLOTS = 262_144
# Before the slots stands the key of the hash.
_KEY_BYTES = 16
_NUMBER = struct.Struct("<d")
_FILE_BYTES = _KEY_BYTES + SLOTS * _NUMBER.size


class Rate(NamedTuple):
    """So many calls a second in the long run, and so many at once."""

    per_s: float
    burst: int


# Callers with valid credentials but without a role for this service.
WITHOUT_ROLE = Rate(1, 10)


class Rates:
    """The counts of all callers. Times are those of the machine since its start."""

    def __init__(
        self,
        limits: Mapping[Role, Rate],
        file: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._file = file
        self._numbers = mmap.mmap(-1 if file is None else file, _FILE_BYTES)
        self._key = self._common_key()
        self._clock = clock

    @classmethod
    def open(cls, limits: Mapping[Role, Rate], path: Path | None = None) -> Self:
        """The counts in a file that other workers open too; without one, of this process.

        Raises StartError for a file that cannot be made.
        """
        return cls(limits, None if path is None else open_shared_memory(path, _FILE_BYTES))

    def _common_key(self) -> bytes:
        """The key of the hash, made by whoever opens the file first."""
        self._lock(fcntl.LOCK_EX, _KEY_BYTES, 0)
        try:
            if not any(self._numbers[:_KEY_BYTES]):
                self._numbers[:_KEY_BYTES] = secrets.token_bytes(_KEY_BYTES)
            return self._numbers[:_KEY_BYTES]
        finally:
            self._lock(fcntl.LOCK_UN, _KEY_BYTES, 0)

    def close(self) -> None:
        """Give the memory and the file back."""
        self._numbers.close()
        if self._file is not None:
            os.close(self._file)

    def _lock(self, how: int, length: int, begin: int) -> None:
        """Keep other workers from some bytes, or let them; a single process needs no lock."""
        if self._file is not None:
            fcntl.lockf(self._file, how, length, begin)

    def take(self, caller: Principal, calls: int = 1) -> None:
        """Count calls of a caller. Raises RATE_LIMITED; then none of them is counted.

        The most generous of its roles decides; one without a limit is not counted.
        """
        rate = self._rate(caller)
        if rate is None:
            return
        slot = self._slot(caller)
        # More than ever can be asked at once is let pass when nothing else was: the rest of
        # a batch, after the call itself.
        most = max(rate.burst, calls + 1)
        late_s = self._late_s(slot, calls / rate.per_s, most / rate.per_s)
        if late_s > 0:
            raise Refusal(
                Reason.RATE_LIMITED,
                f"more than {rate.per_s:g} calls a second (at most {rate.burst} at once)",
                retry_after_s=late_s,
            )

    def charge(self, caller: Principal, calls: int) -> None:
        """Count what a call has cost beyond itself, however much that is.

        The answer is ready and goes out; the caller's next call waits until it is paid.
        """
        rate = self._rate(caller)
        if rate is not None and calls > 0:
            self._late_s(self._slot(caller), calls / rate.per_s, math.inf)

    def _rate(self, caller: Principal) -> Rate | None:
        if caller is ANONYMOUS:
            return None
        # Good credentials for nothing here.
        found: Rate | None = None if caller.roles else WITHOUT_ROLE
        for role in caller.roles:
            rate = self._limits.get(role)
            if rate is None:
                return None
            if found is None or rate > found:
                found = rate
        return found

    def _slot(self, caller: Principal) -> int:
        """Where the caller's number begins."""
        who = " ".join(caller.key).encode()
        digest = hashlib.blake2b(who, digest_size=8, key=self._key).digest()
        return _KEY_BYTES + int.from_bytes(digest, "little") % SLOTS * _NUMBER.size

    def _late_s(self, slot: int, step_s: float, most_s: float) -> float:
        """Move the caller's time on; or by how much the call comes too early."""
        self._lock(fcntl.LOCK_EX, _NUMBER.size, slot)
        try:
            now_s = self._clock()
            (due_s,) = _NUMBER.unpack_from(self._numbers, slot)
            next_s = max(due_s, now_s) + step_s
            late_s: float = next_s - now_s - most_s
            if late_s > 1e-9:
                return late_s
            _NUMBER.pack_into(self._numbers, slot, next_s)
            return 0.0
        finally:
            self._lock(fcntl.LOCK_UN, _NUMBER.size, slot)


def read_rates(text: str) -> dict[Role, Rate]:
    """Limits as `role:calls a second/burst`, several separated by commas. Raises ValueError."""
    limits: dict[Role, Rate] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        role, _, numbers = part.partition(":")
        per_s, _, burst = numbers.partition("/")
        try:
            rate = Rate(float(per_s), int(burst))
        except ValueError:
            rate = Rate(0, 0)
        if role not in set(Role):
            raise ValueError(f"must name roles ({', '.join(Role)})")
        if not (0.001 <= rate.per_s <= 1e6 and 1 <= rate.burst <= 1_000_000):
            raise ValueError(
                f"{role}: must be calls a second/calls at once, for example {role}:20/100, "
                "0.001 to 1000000 and 1 to 1000000"
            )
        limits[Role(role)] = rate
    return limits
