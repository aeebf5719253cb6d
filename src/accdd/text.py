"""Text from files, on a terminal or a page."""


def printable(text: str) -> str:
    """Names from files may hold terminal escapes, and characters that turn the text around: shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
