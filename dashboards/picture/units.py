"""Values as people read them, by the units of Grafana that these dashboards use."""

import math
from collections.abc import Callable
from typing import Final

DECIMAL: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
BINARY: Final = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
TIMES: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def format_value(value: float, unit: str, decimals: int | None = None) -> str:
    """``0.25`` as ``25 %``, ``7200`` as ``2 h``. Raises ValueError for a unit that isn't known here."""
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r}: known are {', '.join(sorted(UNITS))}")
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return UNITS[unit](value, decimals)


def _number(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    digits = 0 if value == round(value) else max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(value: float, scales: tuple[tuple[float, str], ...], plain: str, decimals: int | None) -> str:
    for size, name in scales:
        if abs(value) >= size:
            return f"{_number(value / size, decimals)} {name}"
    return f"{_number(value, decimals)} {plain}".rstrip()


def _plain(value: float, decimals: int | None) -> str:
    return _scaled(value, DECIMAL, "", decimals) if abs(value) >= DECIMAL[-1][0] else _number(value, decimals)


def _seconds(value: float, decimals: int | None) -> str:
    if 0.0005 <= abs(value) < 1 and decimals is None:
        return f"{_number(value * 1000, None)} ms"
    return _scaled(value, TIMES, "s", decimals)


UNITS: Final[dict[str, Callable[[float, int | None], str]]] = {
    "none": _plain,
    "reqps": lambda value, decimals: f"{_plain(value, decimals)} /s",
    "ops": lambda value, decimals: f"{_plain(value, decimals)} /s",
    "percentunit": lambda value, decimals: f"{_number(value * 100, decimals)} %",
    "s": _seconds,
    "bytes": lambda value, decimals: _scaled(value, BINARY, "B", decimals),
}
