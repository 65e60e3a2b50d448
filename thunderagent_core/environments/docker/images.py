"""Images: present, pulled or built."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.environments.base import ProviderError, ProviderUnavailableError
from thunderagent_core.environments.docker.context import write_context
from thunderagent_core.environments.docker.errors import IMAGE_NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path
    from typing import IO

    import aiodocker

    from thunderagent_core.environments.docker.daemon import Daemon

_SHOWN_LINES: Final = 20
"""Of a build's output, in the error."""
_SPOOLED_BYTES: Final = 8 << 20
"""A build context up to this size stays in memory."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull or a build is.

    Args:
        image: reference of the image.
        text: what the daemon says, such as ``Downloading`` or a line of a build.
        layer: short id of the layer, or empty.
        done_bytes: of the layer; None where it is not known.
        total_bytes: of the layer; None where it is not known.
    """

    image: str
    text: str
    layer: str = ""
    done_bytes: int | None = None
    total_bytes: int | None = None


async def find_image(daemon: Daemon, reference: str) -> dict[str, Any] | None:
    """Return the description of an image that is present, else None. Raises as ``Daemon.ask`` does."""
    try:
        return await daemon.ask(lambda docker: docker.images.inspect(reference))
    except ProviderError as error:
        if error.code == IMAGE_NOT_FOUND:
            return None
        raise


async def ensure_image(
    daemon: Daemon, reference: str, *, timeout_s: float, on_progress: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """Return the description of an image, pulling it where it is absent.

    Raises:
        ProviderError: ``image_not_found``, ``registry_unreachable``, ``disk_full`` and the like.
        ProviderUnavailableError: the daemon did not answer, or hung up on the way.
    """
    found = await find_image(daemon, reference)
    if found is None:
        await pull_image(daemon, reference, timeout_s=timeout_s, on_progress=on_progress)
        found = await find_image(daemon, reference)
    if found is None:  # the client takes a stream that breaks off for one that has ended
        raise ProviderUnavailableError(f"{daemon.url}: the pull of {reference} broke off")
    return found


async def pull_image(
    daemon: Daemon, reference: str, *, timeout_s: float, on_progress: Callable[[Progress], None] | None = None
) -> None:
    """Pull an image, or find out that it is current. Cancelling stops the daemon's pull. Raises as ``ensure_image``."""

    async def follow(docker: aiodocker.Docker) -> None:
        async for item in docker.images.pull(reference, stream=True):
            if on_progress is not None:
                on_progress(_progress(reference, item))

    await daemon.act(follow, timeout_s=timeout_s)


async def build_image(
    daemon: Daemon,
    context: Path,
    *,
    tag: str,
    labels: Mapping[str, str],
    dockerfile: str = "Dockerfile",
    timeout_s: float,
    on_progress: Callable[[Progress], None] | None = None,
) -> str:
    """Build an image from a directory and return its id. ``.dockerignore`` is obeyed. Cancelling stops the build.

    Raises:
        ProviderError: ``build_failed``, with the end of the build's output; ``context_unreadable``.
        ProviderUnavailableError: as ``ensure_image``.
    """
    said: deque[str] = deque(maxlen=_SHOWN_LINES)
    with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as archive:
        try:
            await asyncio.to_thread(write_context, context, archive, dockerfile)
        except (OSError, re.error) as error:
            raise ProviderError(f"{context}: {error}", code="context_unreadable", permanent=True) from error

        async def follow(docker: aiodocker.Docker) -> None:
            async for item in _build(docker, archive, tag, dockerfile, labels):
                said.append(str(item.get("stream", "")).rstrip())
                if on_progress is not None:
                    on_progress(_progress(tag, item))

        try:
            await daemon.act(follow, timeout_s=timeout_s)
        except ProviderUnavailableError:
            raise
        except ProviderError as error:
            output = "\n".join(filter(None, said))
            raise ProviderError(f"{error}\n{output}", code="build_failed", permanent=True) from error
    built = await find_image(daemon, tag)
    if built is None or not any(line.startswith("Successfully tagged") for line in said):
        raise ProviderUnavailableError(f"{daemon.url}: the build of {tag} broke off")
    return str(built["Id"])


def _build(
    docker: aiodocker.Docker, archive: IO[bytes], tag: str, dockerfile: str, labels: Mapping[str, str]
) -> AsyncIterator[dict[str, Any]]:
    archive.seek(0)
    return docker.images.build(
        fileobj=archive,
        encoding="identity",
        tag=tag,
        path_dockerfile=dockerfile,
        labels=dict(labels),
        forcerm=True,
        stream=True,
    )


async def drop_image(daemon: Daemon, reference: str) -> None:
    """Remove an image, or its name where it has others. Idempotent.

    Raises:
        ProviderError: a container uses it.
        ProviderUnavailableError: as ``ensure_image``.
    """
    try:
        await daemon.act(lambda docker: docker.images.delete(reference))
    except ProviderError as error:
        if error.code != IMAGE_NOT_FOUND:
            raise


def _progress(image: str, item: Mapping[str, Any]) -> Progress:
    detail = item.get("progressDetail") or {}
    text = str(item.get("status") or item.get("stream") or "").rstrip()
    return Progress(image, text, str(item.get("id", "")), detail.get("current"), detail.get("total"))
