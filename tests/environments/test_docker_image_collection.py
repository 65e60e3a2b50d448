"""Images that we brought to a real daemon are removed when nobody needs them, and no others."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from docker_registry import registry
from docker_testbed import root_file_system

from thunderagent_core.environments.docker.provider import DockerProvider
from thunderagent_core.environments.docker.references import image_name
from thunderagent_core.environments.ledger import Ledger
from thunderagent_core.environments.manager import Manager, ManagerSettings
from thunderagent_core.environments.spec import EnvironmentSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from docker_testbed import DockerBed

PATIENT_S = 60.0


@asynccontextmanager
async def managed(
    bed: DockerBed, folder: Path, high_bytes: int | None
) -> AsyncIterator[tuple[Manager, DockerProvider]]:
    """A manager on a real daemon, that looks often."""
    ledger = await Ledger.open(folder / "ledger.db", token=lambda _: bed.installation)
    provider = DockerProvider(installation=ledger.installation, endpoints=(bed.url,))
    settings = ManagerSettings(image_high_bytes=high_bytes, reconcile_interval_s=0.5, disk_floor_bytes=0)
    manager = await Manager.start(ledger, {"docker": provider}, settings)
    try:
        yield manager, provider
    finally:
        await manager.aclose()
        await provider.aclose()
        await ledger.aclose()


async def until(condition: Callable[[], object]) -> None:
    end = asyncio.get_running_loop().time() + PATIENT_S
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.05)


async def make(manager: Manager, program_id: str, image: str) -> None:
    await manager.declare(program_id, [EnvironmentSpec(name="shell", image=image, memory_bytes=64 << 20)])
    await manager.wait_ready(program_id, "shell", PATIENT_S)


async def end(manager: Manager, *program_ids: str) -> None:
    for program_id in program_ids:
        await manager.ended(program_id, "released")
    await until(lambda: not manager.all_views())


def held(bed: DockerBed, image: str) -> bool:
    return bed.engine.request("GET", f"/images/{image}/json")[0] == 200


@pytest.mark.real_docker
async def test_a_pulled_image_goes_and_one_that_was_there_stays(docker_bed: DockerBed, tmp_path: Path) -> None:
    with registry(root_file_system(), "some/collected") as image:
        async with managed(docker_bed, tmp_path, 0) as (manager, _):
            await make(manager, "p", image)
            await make(manager, "q", docker_bed.image)
            seen = manager.statistics()
            assert (seen.images, seen.counts.images_brought) == (1, 1)
            assert seen.image_bytes > 100_000
            await asyncio.sleep(0)
            assert held(docker_bed, image)
            await end(manager, "p", "q")
            await until(lambda: not held(docker_bed, image))
            await until(lambda: not manager.statistics().images)
            assert held(docker_bed, docker_bed.image)


@pytest.mark.real_docker
async def test_one_that_a_container_of_others_uses_stays_until_that_is_gone(
    docker_bed: DockerBed, tmp_path: Path
) -> None:
    engine = docker_bed.engine
    with registry(root_file_system(), "some/borrowed") as image:
        async with managed(docker_bed, tmp_path, 0) as (manager, provider):
            await make(manager, "p", image)
            name = f"foreign-{docker_bed.installation}"
            status, made = engine.request("POST", f"/containers/create?name={name}", {"Image": image, "Cmd": ["true"]})
            assert status == 201
            try:
                await end(manager, "p")
                refused = asyncio.Event()
                drop = provider.drop_image

                async def watched(endpoint: str, name: str) -> None:
                    try:
                        await drop(endpoint, name)
                    except Exception:
                        refused.set()
                        raise

                provider.drop_image = watched  # type: ignore[method-assign]
                async with asyncio.timeout(PATIENT_S):
                    await refused.wait()
                assert held(docker_bed, image)
            finally:
                engine.request("DELETE", f"/containers/{made['Id']}?force=1")
            await until(lambda: not held(docker_bed, image))


@pytest.mark.real_docker
async def test_a_server_that_comes_back_knows_what_it_brought(docker_bed: DockerBed, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {docker_bed.image}\nRUN echo built > /built\n")
    tag = f"thunderagent-test/collected:{docker_bed.installation}"
    with registry(root_file_system(), "some/remembered") as image:
        async with managed(docker_bed, tmp_path, None) as (manager, provider):
            await make(manager, "p", image)
            await provider.build(docker_bed.url, context, tag=tag)
            await make(manager, "q", tag)
            await end(manager, "p", "q")
            assert held(docker_bed, image)
            assert manager.statistics().images == 2
            copy = "thunderagent-test/kept"
            engine = docker_bed.engine
            assert engine.request("POST", f"/images/{image}/tag?repo={copy}&tag={docker_bed.installation}")[0] == 201
        async with managed(docker_bed, tmp_path, 0) as (manager, _):
            await until(lambda: not held(docker_bed, image) and not held(docker_bed, tag))
            await until(lambda: not manager.statistics().images)
        # Somebody gave the same image another name: only ours has gone.
        kept = f"{copy}:{docker_bed.installation}"
        assert held(docker_bed, kept)
        assert engine.request("DELETE", f"/images/{kept}")[0] == 200


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("docker.io/busybox:1", "docker.io/library/busybox:1"),
        ("library/busybox", "docker.io/library/busybox:latest"),
        ("some/image:2", "docker.io/some/image:2"),
        ("127.0.0.1:5000/image", "127.0.0.1:5000/image:latest"),
        ("localhost/some/image:3", "localhost/some/image:3"),
        ("ghcr.io/some/image@sha256:ab", "ghcr.io/some/image@sha256:ab"),
    ],
)
def test_one_name_for_what_means_the_same_image(reference: str, name: str) -> None:
    assert image_name(reference) == name
    assert image_name(name) == name
