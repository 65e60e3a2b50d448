"""The backends together: which of them may take a request for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thunderagent_core.scheduling.backend import Backend

_MODELS_REMEMBERED = 64
"""Model names come from clients, so the answers are forgotten rather than let grow."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where requests for one model may go now, and the smallest and the largest pool among those, in tokens."""

    backends: tuple[Backend, ...]
    smallest_tokens: int
    largest_tokens: int


class Fleet:
    """Backends by id. Every request asks for the open ones, so answers are kept until some backend changes."""

    __slots__ = ("_choices", "by_id")

    def __init__(self) -> None:
        self.by_id: dict[str, Backend] = {}
        self._choices: dict[str | None, Choice] = {}

    def add(self, backend: Backend) -> None:
        """Take a backend in."""
        self.by_id[backend.id] = backend
        self.changed()

    def remove(self, backend_id: str) -> None:
        """Let a backend go."""
        del self.by_id[backend_id]
        self.changed()

    def changed(self) -> None:
        """Forget all answers: a backend opened, closed, or serves other models or another number of tokens."""
        self._choices.clear()

    def choice(self, model: str | None) -> Choice:
        """Return the open backends that serve ``model``; where none is known to, any open one (it answers 404)."""
        choice = self._choices.get(model)
        if choice is None:
            if len(self._choices) >= _MODELS_REMEMBERED:
                self._choices.clear()
            choice = self._choices[model] = self._look_up(model)
        return choice

    def fits_somewhere(self, model: str | None, tokens: int) -> bool:
        """Whether any backend for ``model`` may be large enough, be it open or not; one never sampled may be."""
        return any(tokens <= (b.capacity_tokens or tokens) for b in self.by_id.values() if b.serves(model))

    def for_program(self, model: str | None, tokens: int) -> tuple[Backend, ...]:
        """Return the open backends for ``model`` whose pool holds ``tokens``.

        Where it is too large for all of these it waits for a larger one that is down; without such a one any will do,
        because sizes are estimates and the engine is to judge.
        """
        choice = self.choice(model)
        if tokens <= choice.smallest_tokens:
            return choice.backends
        if tokens <= choice.largest_tokens:
            return tuple(backend for backend in choice.backends if tokens <= backend.capacity_tokens)
        return () if self.fits_somewhere(model, tokens) else choice.backends

    def _look_up(self, model: str | None) -> Choice:
        serving = [backend for backend in self.by_id.values() if backend.serves(model)]
        backends = tuple(backend for backend in serving or self.by_id.values() if backend.open)
        sizes = [backend.capacity_tokens for backend in backends] or [0]
        return Choice(backends, min(sizes), max(sizes))
