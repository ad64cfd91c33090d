"""Ids and enumerations of OCPI, used in every layer.

Of OCPI 2.2.1 (8.4 Locations, 16 Types), with what 2.3.0 adds.
"""

from enum import StrEnum
from typing import NamedTuple


def folded(ocpi_id: str) -> str:
    """An id as it is compared: OCPI's are without regard to case (2.2.1, 16.1 CiString)."""
    return ocpi_id.lower()


class Day(StrEnum):
    """OCPI DayOfWeek; the order is that of `datetime.weekday`."""

    MONDAY = "MONDAY"
    TUESDAY = "TUESDAY"
    WEDNESDAY = "WEDNESDAY"
    THURSDAY = "THURSDAY"
    FRIDAY = "FRIDAY"
    SATURDAY = "SATURDAY"
    SUNDAY = "SUNDAY"


DAYS = tuple(Day)


class PowerType(StrEnum):
    """OCPI PowerType."""

    AC_1_PHASE = "AC_1_PHASE"
    AC_2_PHASE = "AC_2_PHASE"
    AC_2_PHASE_SPLIT = "AC_2_PHASE_SPLIT"
    AC_3_PHASE = "AC_3_PHASE"
    DC = "DC"


class VehicleType(StrEnum):
    """Anything that moves on a battery; wider than OCPI's list."""

    CAR = "CAR"
    VAN = "VAN"
    TRUCK = "TRUCK"
    BUS = "BUS"
    MOTORCYCLE = "MOTORCYCLE"
    SCOOTER = "SCOOTER"
    BICYCLE = "BICYCLE"
    DRONE = "DRONE"
    ROBOT = "ROBOT"
    BOAT = "BOAT"


# OCPI 2.3.0 ConnectorType.
CONNECTOR_STANDARDS = frozenset(
    {
        "CHADEMO",
        "CHAOJI",
        "DOMESTIC_A",
        "DOMESTIC_B",
        "DOMESTIC_C",
        "DOMESTIC_D",
        "DOMESTIC_E",
        "DOMESTIC_F",
        "DOMESTIC_G",
        "DOMESTIC_H",
        "DOMESTIC_I",
        "DOMESTIC_J",
        "DOMESTIC_K",
        "DOMESTIC_L",
        "DOMESTIC_M",
        "DOMESTIC_N",
        "DOMESTIC_O",
        "GBT_AC",
        "GBT_DC",
        "IEC_60309_2_single_16",
        "IEC_60309_2_three_16",
        "IEC_60309_2_three_32",
        "IEC_60309_2_three_64",
        "IEC_62196_T1",
        "IEC_62196_T1_COMBO",
        "IEC_62196_T2",
        "IEC_62196_T2_COMBO",
        "IEC_62196_T3A",
        "IEC_62196_T3C",
        "MCS",
        "NEMA_5_20",
        "NEMA_6_30",
        "NEMA_6_50",
        "NEMA_10_30",
        "NEMA_10_50",
        "NEMA_14_30",
        "NEMA_14_50",
        "PANTOGRAPH_BOTTOM_UP",
        "PANTOGRAPH_TOP_DOWN",
        "SAE_J3400",
        "TESLA_R",
        "TESLA_S",
    }
)


class PlaceKey(NamedTuple):
    """A place as OCPI names it; "" where a part is not given.

    A tuple, like all that is made anew for each call: a frozen dataclass costs three
    times as much to make and to look up.
    """

    country_code: str
    party_id: str
    location_id: str
    evse_uid: str = ""
    connector_id: str = ""
