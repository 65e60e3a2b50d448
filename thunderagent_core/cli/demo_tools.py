"""Where the demo's tools can run on this machine: found out by trying."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import Final

import typer

from thunderagent_core.cli.escaping import escaped
from thunderagent_core.demo.comparison import DemoError
from thunderagent_core.demo.tools import Toolbox
from thunderagent_core.environments.base import LABEL_ENVIRONMENT, LABEL_INSTALLATION, Place, Plan, ProviderError
from thunderagent_core.environments.docker.provider import DEFAULT_ENDPOINT, DockerProvider
from thunderagent_core.environments.process.provider import ProcessProvider
from thunderagent_core.environments.spec import EnvironmentSpec

_IMAGES: Final = ("busybox", "alpine", "debian", "python")
"""Images that have all that the tools need, by the last part of their name; the first that is present is taken."""
_PATIENCE_S: Final = 10.0
_TRIAL: Final = "demotrial"


async def find_tools(wanted: str) -> Toolbox | None:
    """Return where tools run; None: nowhere, which is said in one line unless it was wanted.

    Args:
        wanted: ``auto``, ``docker``, ``process`` or ``none``.

    Raises:
        DemoError: what was asked for does not work here.
    """
    ways = {"docker": _docker, "process": _process}
    problems = []
    for name in {"auto": ("docker", "process"), "none": ()}.get(wanted, (wanted,)):
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await ways[name]()
        except TimeoutError:
            problems.append(f"{name} did not answer within {_PATIENCE_S:g} s")
        except (ProviderError, OSError) as error:
            problems.append(f"{name}: {error}")
    if wanted in ways:
        raise DemoError(f"tools cannot run in {problems[0]}")
    if problems:
        text = f"tools are only waited for, since there are no sandboxes here ({'; '.join(problems)})"
        typer.echo(f"thunderagent: {escaped(text)}", err=True)
    return None


async def _docker() -> Toolbox:
    """Raises ProviderError where no daemon answers, or it has no image that is known to do."""
    async with aclosing(DockerProvider(installation=_TRIAL)) as provider:
        present = sorted(await provider.image_tags(DEFAULT_ENDPOINT))
    for wanted in _IMAGES:
        for tag in present:
            if tag.rpartition("/")[2].partition(":")[0] == wanted:
                return Toolbox("docker", tag)
    raise ProviderError(f"the daemon has no image of {', '.join(_IMAGES)}")


async def _process() -> Toolbox:
    """Make a sandbox and remove it. Raises ProviderError where that does not work."""
    place = Place("", f"thunder-{_TRIAL}-1")
    labels = {LABEL_INSTALLATION: _TRIAL, LABEL_ENVIRONMENT: "1"}
    plan = Plan(place=place, labels=labels, spec=EnvironmentSpec(name="trial"))
    with tempfile.TemporaryDirectory(prefix="thunderagent-demo-") as folder:
        async with aclosing(ProcessProvider(installation=_TRIAL, root=Path(folder) / "sandboxes")) as provider:
            try:
                await provider.create(plan)
            finally:
                await provider.destroy(place)
    return Toolbox("process")
