"""A server-sent event stream on its way from the engine to the client: counted, read, and otherwise untouched."""

from __future__ import annotations

from typing import Any

import msgspec

from thunderagent_core.engines.usage import Usage, find_error, find_usage

_MAX_TAIL_BYTES = 1024 * 1024
"""An event longer than this is passed on in pieces, unread."""


class StreamTap:
    """Reads usage and errors and counts events in a stream that is passed on byte by byte.

    Only whole events are passed on, so that one which must be hidden can be. Almost all bytes are searched for a few
    short strings and never parsed: that is what keeps a relay in Python fast (docs/performance.md).

    Args:
        hide_usage: drop the chunk with usage and no choices, which the client did not ask for.
    """

    __slots__ = ("_hide_usage", "_separator", "_tail", "error", "events", "usage")

    def __init__(self, *, hide_usage: bool) -> None:
        self.usage = Usage()
        self.events = 0
        self.error: dict[str, Any] | None = None
        """What the engine said went wrong: it may end a stream in good order though it could not answer."""
        self._hide_usage = hide_usage
        self._separator = b""
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """Take in what arrived and return what may be passed on now."""
        if self._tail:
            data = self._tail + data
        separator = self._separator or self._detect(data)
        cut = data.rfind(separator) + len(separator)
        if cut < len(separator):
            if len(data) > _MAX_TAIL_BYTES:
                self._tail = b""
                return data
            self._tail = data
            return b""
        if cut == len(data):
            self._tail = b""
        else:
            self._tail = data[cut:]
            data = data[:cut]
        self.events += data.count(b"\ndata:") + data.startswith(b"data:")
        # Not _is_marked: a call costs as much as both searches, and this is done for every piece of every stream.
        return self._read(data, separator) if b'"usage"' in data or b'"error"' in data else data

    def flush(self) -> bytes:
        """Return what is left at the end of a stream that did not end with a blank line."""
        tail, self._tail = self._tail, b""
        return self._read(tail, b"\n\n") if _is_marked(tail) else tail

    def _detect(self, data: bytes) -> bytes:
        """Both line ends are legal; an engine keeps to one."""
        separator = b"\r\n\r\n" if b"\r\n" in data else b"\n\n"
        if b"\n" in data:
            self._separator = separator
        return separator

    def _read(self, data: bytes, separator: bytes) -> bytes:
        kept = [event for event in data.split(separator) if not _is_marked(event) or self._pass_on(event)]
        return separator.join(kept)

    def _pass_on(self, event: bytes) -> bool:
        """Take usage or an error from one event; False where the client must not see it."""
        for line in event.splitlines():
            if not line.startswith(b"data:"):
                continue
            try:
                content: Any = msgspec.json.decode(line[5:])
            except msgspec.MsgspecError:
                continue
            if isinstance(content, dict):
                self.error = find_error(content) or self.error
                usage = find_usage(content)
                self.usage.take(usage)
                if self._hide_usage and usage and content.get("choices") == []:
                    return False
        return True


def _is_marked(data: bytes) -> bool:
    """Whether something in here may have to be read; inside the text of an answer these quotes are escaped."""
    return b'"usage"' in data or b'"error"' in data
