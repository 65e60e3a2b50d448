"""Server-sent events, parsed from bytes as they come. Lines end with LF or CRLF."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event; ``event`` is ``message`` where the server names none."""

    event: str
    data: str


class SseParser:
    """Cuts a byte stream into events, however the bytes were cut before.

    (``httpx`` would split lines at every character that Unicode takes for a line's end, also inside JSON text.)
    """

    def __init__(self) -> None:
        self._rest = b""
        self._name = "message"
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[SseEvent]:
        """Take in more bytes and return the events that they complete."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [event for line in lines if (event := self._line(line.removesuffix(b"\r"))) is not None]

    def _line(self, line: bytes) -> SseEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode(errors="replace")
        if name == b"data":
            self._data.append(text)
        elif name == b"event":
            self._name = text
        return None

    def _dispatch(self) -> SseEvent | None:
        event = SseEvent(self._name, "\n".join(self._data)) if self._data else None
        self._name, self._data = "message", []
        return event
