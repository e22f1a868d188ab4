"""Time and units: the clock, time zones, durations, and physical units."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from aios.syscalls.errors import InvalidArgument
from aios.tool import tool

_UNITS: dict[str, dict[str, float]] = {
    "length": {
        "m": 1, "km": 1000, "cm": 0.01, "mm": 0.001, "um": 1e-6, "nm": 1e-9, "mi": 1609.344,
        "yd": 0.9144, "ft": 0.3048, "in": 0.0254, "nmi": 1852,
    },
    "mass": {"kg": 1, "g": 1e-3, "mg": 1e-6, "t": 1000, "lb": 0.45359237, "oz": 0.028349523125},
    "time": {"s": 1, "ms": 1e-3, "min": 60, "h": 3600, "d": 86400, "week": 604800},
    "speed": {"m/s": 1, "km/h": 1 / 3.6, "mph": 0.44704, "kn": 1852 / 3600},
    "area": {"m2": 1, "km2": 1e6, "ha": 1e4, "acre": 4046.8564224, "ft2": 0.09290304},
    "volume": {"l": 1, "ml": 1e-3, "m3": 1000, "gal": 3.785411784, "ft3": 28.316846592},
    "energy": {"J": 1, "kJ": 1e3, "cal": 4.184, "kcal": 4184, "Wh": 3600, "kWh": 3.6e6},
    "power": {"W": 1, "kW": 1e3, "MW": 1e6, "hp": 745.69987158227022},
    "pressure": {"Pa": 1, "kPa": 1e3, "bar": 1e5, "atm": 101325, "psi": 6894.757293168},
    "data": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024, "MiB": 1 << 20, "GiB": 1 << 30},
}  # fmt: skip
_TEMPERATURES = {"C": (1.0, 273.15), "K": (1.0, 0.0), "F": (5 / 9, 459.67 * 5 / 9)}
"""Kelvin = value * factor + offset."""


@tool(effect="read", idempotent=True)
def current_time(timezone: str = "UTC") -> str:
    """Get the current date and time, in ISO 8601.

    timezone: a name like UTC or Europe/Oslo
    """
    return datetime.now(_zone(timezone)).isoformat(timespec="seconds")


@tool(effect="read", idempotent=True)
def convert_time(time: str, timezone: str, to: str) -> str:
    """Convert a time to another time zone.

    time: in ISO 8601, for example: 2025-03-01T12:00
    timezone: its time zone, unless the time has an offset
    to: the target time zone
    """
    return _instant(time, timezone).astimezone(_zone(to)).isoformat()


@tool(effect="read", idempotent=True)
def time_between(start: str, end: str) -> dict[str, Any]:
    """Compute the duration between two times.

    start: in ISO 8601; UTC unless it has an offset
    end: in ISO 8601; UTC unless it has an offset
    """
    span = _instant(end, "UTC") - _instant(start, "UTC")
    return {"seconds": span.total_seconds(), "days": span.total_seconds() / 86400}


@tool(effect="read", idempotent=True)
def convert_units(value: float, unit: str, to: str) -> float:
    """Convert a quantity to another unit, for example 3 ft to m.

    value: the number
    unit: its unit, for example: km, lb, h, mph, l, kWh, bar, MiB, C, F
    to: the target unit
    """
    if unit in _TEMPERATURES and to in _TEMPERATURES:
        factor, offset = _TEMPERATURES[unit]
        to_factor, to_offset = _TEMPERATURES[to]
        return round((value * factor + offset - to_offset) / to_factor, 9)
    for units in _UNITS.values():
        if unit in units and to in units:
            return value * units[unit] / units[to]
    known = "; ".join(" ".join(units) for units in (*map(list, _UNITS.values()), [*_TEMPERATURES]))
    raise InvalidArgument(f"cannot convert {unit!r} to {to!r}", f"units by kind: {known}")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidArgument(f"there is no time zone {name!r}", "use one like UTC") from None


def _instant(text: str, zone: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidArgument(f"{text!r} is not a time", "write it like 2025-03-01T12:00") from None
    return found if found.tzinfo else found.replace(tzinfo=_zone(zone) if zone != "UTC" else UTC)


TOOLS = (current_time, convert_time, time_between, convert_units)
