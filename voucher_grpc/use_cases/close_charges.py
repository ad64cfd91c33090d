"""What is reserved for charges that nobody has captured or released in time is given back.

Reservations count by their instant wherever they are judged (`write_charges`); here it is written
down and reported as events, also for users who do not come back.
"""

from voucher_grpc.runtime.background import keep_working
from voucher_grpc.use_cases.write_charges import ChargeWriter

# Charges whose users are looked at in one transaction.
_BATCH_CHARGES = 200
_INTERVAL_S = 1.0


class ChargeCloser:
    """Ends charges whose reservation is over, in every server."""

    def __init__(self, writer: ChargeWriter) -> None:
        self._writer = writer

    async def run(self) -> None:
        """Work until cancelled; whatever fails is tried again."""
        await keep_working("charges", self.close, lambda: _INTERVAL_S)

    async def close(self) -> bool:
        """End one batch; whether more may wait."""
        return await self._writer.end_expired(_BATCH_CHARGES)
