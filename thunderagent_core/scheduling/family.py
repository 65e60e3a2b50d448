"""Who started whom: a program ends with the one that started it, and not before those that it started."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thunderagent_core.scheduling.program import Program


class Family:
    """Live programs by the id of the program that started them; that one need not be known."""

    __slots__ = ("_children",)

    def __init__(self) -> None:
        self._children: dict[str, dict[str, None]] = {}

    def __contains__(self, program_id: str) -> bool:
        return program_id in self._children

    def children(self, program_id: str) -> Iterable[str]:
        """Return the ids of the live programs that a program started, oldest first."""
        return self._children.get(program_id, ())

    def adopt(self, program: Program, parent_id: str | None) -> None:
        """Note who started a program."""
        self.leave(program)
        program.parent_id = parent_id
        if parent_id is not None:
            self._children.setdefault(parent_id, {})[program.id] = None

    def leave(self, program: Program) -> None:
        """Forget a program that has ended; what it started is remembered."""
        parent_id = program.parent_id
        if parent_id is None or program.id not in self._children.get(parent_id, ()):
            return
        del self._children[parent_id][program.id]
        if not self._children[parent_id]:
            del self._children[parent_id]

    def pairs(self) -> set[tuple[str, str]]:
        """Return parents and children, for checks."""
        return {(parent, child) for parent, members in self._children.items() for child in members}
