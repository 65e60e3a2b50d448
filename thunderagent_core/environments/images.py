"""What the manager needs of providers that bring images from elsewhere, so that it can take them away again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that an endpoint holds.

    Args:
        identity: differs once somebody has put another image in its place.
        size_bytes: what it takes; layers that it shares with others count in each of them.
    """

    identity: str
    size_bytes: int


class PullWitness(Protocol):
    """Is told of every image that a provider brings, by a pull or a build. What it raises stops the provider."""

    async def pulling(self, endpoint: str, image: str, *, absent: bool) -> bool:
        """Remember, before it begins, that an image is brought; ``absent``: the endpoint holds none of this name.

        Returns whether the image is ours: it was absent, or we had brought it before. Only then is the end reported.
        """
        ...

    async def pulled(self, endpoint: str, image: str, stored: StoredImage | None) -> None:
        """Remember that it has come; None: it is certain that it has not. Not called where that is not known."""
        ...


@runtime_checkable
class ImageStore(Protocol):
    """A provider that brings images. One whose environments need none, or only what is there, is no such store."""

    def watch_pulls(self, witness: PullWitness) -> None:
        """Report to this witness from now on."""
        ...

    def image_name(self, image: str) -> str:
        """Return one name for all references that mean the same image."""
        ...

    async def stored_image(self, endpoint: str, image: str) -> StoredImage | None:
        """Return what an endpoint holds under a name; None: nothing. Raises ProviderUnavailableError."""
        ...

    async def drop_image(self, endpoint: str, image: str) -> None:
        """Remove an image, or its name where it has others. Idempotent, and never by force.

        Raises ProviderError ``image_in_use`` while a container of anybody, or another image, is based on it.
        """
        ...
