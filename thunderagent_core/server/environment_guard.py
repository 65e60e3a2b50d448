"""What a specification may reach of the host: nothing, unless the operator has said so."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from thunderagent_core.environments.spec import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from thunderagent_core.environments.spec import EnvironmentSpec


class SpecGuard:
    """Lets pass only host paths below the roots that the operator names.

    Args:
        mount_roots: absolute directories; what lies in them may be read from inside any environment.
    """

    def __init__(self, mount_roots: Sequence[Path]) -> None:
        self._roots = tuple(os.path.realpath(root) for root in mount_roots)

    def check(self, specs: Sequence[EnvironmentSpec]) -> None:
        """Raise SpecError where a specification in a list names a path of the host outside of the roots."""
        for index, spec in enumerate(specs):
            self._check(spec, f"environments[{index}].")

    def check_one(self, spec: EnvironmentSpec) -> None:
        """Raise SpecError where a specification that came alone does so."""
        self._check(spec, "")

    def _check(self, spec: EnvironmentSpec, holder: str) -> None:
        for field, path in _host_paths(spec):
            if not self._allowed(path):
                text = f"{path} lies in none of the server's --environment-mount-root directories"
                raise SpecError(holder + field, text)

    def _allowed(self, path: str) -> bool:
        real = os.path.realpath(path)  # a link must not lead out
        return any(os.path.commonpath([root, real]) == root for root in self._roots)


def _host_paths(spec: EnvironmentSpec) -> Iterator[tuple[str, str]]:
    for number, mount in enumerate(spec.mounts):
        yield f"mounts[{number}].source", mount.source
    if spec.image is not None and spec.image.startswith("/"):
        yield "image", spec.image
