"""Text from a server, for a terminal: what could steer the terminal is shown, not obeyed."""

from __future__ import annotations


def escaped(text: str) -> str:
    r"""Return text on one line, with control characters and others that print nothing as ``\x1b`` and the like.

    Names come from whoever sends requests. One with an escape sequence in it could colour, move or hide what an
    operator sees, and worse.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
