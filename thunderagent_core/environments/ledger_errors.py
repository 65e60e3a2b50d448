"""What can go wrong with the ledger."""

from __future__ import annotations


class LedgerError(Exception):
    """The ledger cannot be read or written; its text says which file, what happened and what helps."""


class FencedError(LedgerError):
    """Another server has opened this ledger since: this one owns nothing any more and must not touch anything."""


class StaleStateError(Exception):
    """An environment is not in the state that a change expected: somebody else was faster. Nothing was changed."""


class PortLeasedError(Exception):
    """A port is leased to another environment. Nothing was changed."""


class ParentEndedError(Exception):
    """The program that a new one names as its parent has ended. Nothing was changed."""
