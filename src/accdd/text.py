"""Text that is shown on a terminal or a page, and text that is typed."""

import math
import re
from collections.abc import Mapping


def duration(seconds: float) -> str:
    """As in '2 h 05 min', '3 min 20 s', '31 s' or '4.2 s'; '?' where it is not a number."""
    if math.isnan(seconds):
        return "?"
    if round(seconds) < 60:
        return f"{seconds:.{0 if seconds >= 10 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def quantity(text: str, units: Mapping[str, float]) -> float | None:
    """'1.5 GB' and the like: the number times what its unit is in `units`, in small letters; None for other text."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    return float(match[1]) * units[match[2]] if match and match[2] in units else None


def printable(text: str) -> str:
    """Names from files may hold terminal escapes, and characters that turn the text around: shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
