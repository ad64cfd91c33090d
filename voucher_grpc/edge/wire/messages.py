"""Domain values as the messages that everything shares: money and instants."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money as MoneyMessage

from voucher_grpc.money import MICROS, Money

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def money_message(money: Money) -> MoneyMessage:
    """google.type.Money; units and nanos have the same sign."""
    units, micros = divmod(abs(money.micros), MICROS)
    sign = -1 if money.micros < 0 else 1
    return MoneyMessage(
        currency_code=money.currency_code, units=sign * units, nanos=sign * micros * 1000
    )


def money_of(message: MoneyMessage) -> Money:
    """The money of a message that the service sent."""
    return Money(message.units * MICROS + message.nanos // 1000, message.currency_code)


def timestamp(instant: datetime) -> Timestamp:
    """google.protobuf.Timestamp, to the microsecond."""
    delta = instant - EPOCH
    return Timestamp(seconds=delta.days * 86_400 + delta.seconds, nanos=delta.microseconds * 1000)


def instant_of(message: Timestamp) -> datetime:
    """The instant of a message that the service sent, UTC."""
    return message.ToDatetime(tzinfo=UTC)
