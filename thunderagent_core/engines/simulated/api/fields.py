"""Reading fields of JSON objects that came from outside: each is checked where it is read."""

from __future__ import annotations

from typing import Any

import msgspec

from thunderagent_core.engines.simulated.api.errors import invalid


class Fields:
    """A JSON object and where in the body it lies. Every method raises ApiError (400) for a value of the wrong form.

    A field with the value null counts as absent, as it does for vLLM's optional fields.
    """

    __slots__ = ("data", "where")

    def __init__(self, data: object, where: str = "") -> None:
        if not isinstance(data, dict):
            raise invalid(where, "Input should be a valid dictionary")
        self.data: dict[str, Any] = data
        self.where = where

    def name(self, field: str) -> str:
        """Return the place of a field in the body, for messages."""
        return f"{self.where}.{field}" if self.where else field

    def has(self, field: str) -> bool:
        """Return whether a field is there and not null."""
        return self.data.get(field) is not None

    def text(self, field: str) -> str | None:
        """Return a string field."""
        value = self.data.get(field)
        if value is not None and not isinstance(value, str):
            raise invalid(self.name(field), "Input should be a valid string")
        return value

    def required_text(self, field: str) -> str:
        """Return a string field that must be there."""
        value = self.text(field)
        if value is None:
            raise invalid(self.name(field), "Field required")
        return value

    def flag(self, field: str) -> bool:
        """Return a boolean field; False where it is absent."""
        value = self.data.get(field)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise invalid(self.name(field), "Input should be a valid boolean")
        return value

    def integer(self, field: str, minimum: int) -> int | None:
        """Return an integer field of at least ``minimum``."""
        value = self.data.get(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(self.name(field), "Input should be a valid integer")
        if value < minimum:
            raise invalid(self.name(field), f"{field} must be at least {minimum}, got {value}.")
        return value

    def array(self, field: str) -> list[Any] | None:
        """Return an array field."""
        value = self.data.get(field)
        if value is not None and not isinstance(value, list):
            raise invalid(self.name(field), "Input should be a valid list")
        return value

    def objects(self, field: str) -> list[Fields]:
        """Return the elements of an array of objects; empty where it is absent."""
        return [Fields(item, f"{self.name(field)}.{index}") for index, item in enumerate(self.array(field) or [])]

    def object(self, field: str) -> Fields | None:
        """Return an object field."""
        value = self.data.get(field)
        return None if value is None else Fields(value, self.name(field))

    def strings(self, field: str) -> None:
        """Check a field that is a string or an array of strings."""
        value = self.data.get(field)
        values = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(item, str) for item in values):
            raise invalid(self.name(field), "Input should be a valid string or list of strings")


def parse_body(content: bytes, content_type: bytes | None) -> Fields:
    """Return the JSON object in a request body. Raises ApiError (400), as vLLM also for another content type."""
    if (content_type or b"").split(b";")[0].strip().lower() != b"application/json":
        raise invalid("", "Unsupported Media Type: Only 'application/json' is allowed")
    try:
        return Fields(msgspec.json.decode(content))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("", f"JSON decode error: {error}") from None
