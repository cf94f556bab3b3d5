"""JSON that others have written, taken only where it is what it should be. Pure.

`json.loads` takes more than it seems: numbers that no float can hold, infinity, text nested so deeply that it ends in
a `RecursionError`. And `int` and `float` take text and booleans for numbers. Here all that is wrong is a `ValueError`.
"""

import json


def parse(text: str) -> object:
    """
    Raises:
        ValueError: it is not JSON, or none that anybody would write.
    """
    try:
        parsed: object = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return parsed


def mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{_shown(value)} is not an object")
    return value


def sequence(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{_shown(value)} is not a list")
    return value


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is not a string")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is not true or false")
    return value


def whole(value: object, least: int, most: int) -> int:
    """An integer within bounds, both included."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{_shown(value)} is not a whole number from {least} to {most}")
    return value


def number(value: object, least: float, most: float) -> float:
    """A number within bounds, both included; so neither infinite nor no number at all."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{_shown(value)} is not a number from {least:g} to {most:g}")
    return float(value)


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return f"a {'list' if isinstance(value, list) else 'object'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 128 bits"
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
