"""Images: pulled when absent, built from a directory, and what is said where neither works."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from docker_registry import registry
from docker_testbed import root_file_system

from thunderagent_core.environments.base import Liveness, ProviderError
from thunderagent_core.environments.docker.provider import DockerProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from docker_testbed import DockerBed

    from thunderagent_core.environments.docker.images import Progress

pytestmark = pytest.mark.real_docker


@pytest.fixture(scope="module")
def published() -> Iterator[str]:
    """An image that can be pulled."""
    with registry(root_file_system()) as reference:
        yield reference


@pytest.fixture
def heard() -> list[Progress]:
    """What the provider was told of pulls and builds."""
    return []


@pytest.fixture
async def provider(docker_bed: DockerBed, heard: list[Progress]) -> AsyncIterator[DockerProvider]:
    """A provider that reports progress."""
    provider = DockerProvider(
        installation=docker_bed.installation, endpoints=(docker_bed.url,), on_progress=heard.append
    )
    yield provider
    await provider.aclose()


async def test_an_absent_image_is_pulled_with_progress(
    docker_bed: DockerBed, provider: DockerProvider, heard: list[Progress], published: str
) -> None:
    bed = docker_bed
    assert not await provider.has_image(bed.url, published)
    plans = [bed.plan(environment, image=published) for environment in ("e1", "e2")]
    sightings = await asyncio.gather(*map(provider.create, plans))
    assert [sighting.liveness for sighting in sightings] == [Liveness.ALIVE, Liveness.ALIVE]
    assert await bed.shell("echo $FROM_REGISTRY") == (0, "yes\n")
    assert {progress.image for progress in heard} == {published}
    assert any(progress.layer and progress.total_bytes for progress in heard)

    with pytest.raises(ProviderError) as caught:
        await provider.drop_image(bed.url, published)
    assert (caught.value.code, caught.value.permanent) == ("image_in_use", False)
    for plan in plans:
        await provider.destroy(plan.place)
    await provider.drop_image(bed.url, published)
    await provider.drop_image(bed.url, published)
    assert not await provider.has_image(bed.url, published)


async def test_an_image_that_the_registry_does_not_have_is_not_found(docker_bed: DockerBed, published: str) -> None:
    for reference in (published.replace(":1", ":2"), published.replace("some", "other"), "Not A Reference"):
        with pytest.raises(ProviderError) as caught:
            await docker_bed.provider.create(docker_bed.plan(image=reference))
        assert (caught.value.code, caught.value.permanent) == ("image_not_found", True)


async def test_a_registry_that_cannot_be_reached_may_come_back(docker_bed: DockerBed) -> None:
    with pytest.raises(ProviderError) as caught:
        await docker_bed.provider.create(docker_bed.plan(image="127.0.0.1:9/some/image:1"))
    assert (caught.value.code, caught.value.permanent) == ("registry_unreachable", False)


@pytest.fixture
def context(docker_bed: DockerBed, tmp_path: Path) -> Path:
    """A directory from which an image can be built."""
    (tmp_path / "Dockerfile").write_text(f"FROM {docker_bed.image}\nCOPY . /context\nRUN ls /context > /listing\n")
    (tmp_path / ".dockerignore").write_text("*.secret\n.env\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "kept").write_text("kept")
    (tmp_path / "a.secret").write_text("secret")
    (tmp_path / ".env").write_text("secret")
    return tmp_path


async def test_an_image_is_built_from_a_directory(
    docker_bed: DockerBed, provider: DockerProvider, heard: list[Progress], context: Path
) -> None:
    bed, tag = docker_bed, f"thunderagent-test/built:{docker_bed.installation}"
    built = await provider.build(bed.url, context, tag=tag)
    assert built.startswith("sha256:")
    assert await provider.build(bed.url, context, tag=tag) == built
    assert any(progress.text.startswith("Step 3/") for progress in heard)
    await provider.create(bed.plan(image=tag))
    status, shown = await bed.shell("find /context | sort; cat /listing")
    assert status == 0
    assert shown.split() == [
        "/context",
        "/context/.dockerignore",
        "/context/Dockerfile",
        "/context/sub",
        "/context/sub/kept",
        "Dockerfile",
        "sub",
    ]
    [found] = await provider.survey(bed.url)  # a built image is no snapshot
    assert found.kind == "environment"
    await provider.destroy(bed.place())
    await provider.drop_image(bed.url, tag)


async def test_a_build_that_fails_says_why(docker_bed: DockerBed, context: Path) -> None:
    bed, provider = docker_bed, docker_bed.docker
    context.joinpath("Dockerfile").write_text(f"FROM {bed.image}\nRUN echo the reason; exit 3\n")
    with pytest.raises(ProviderError, match=r"(?s)code: 3.*the reason") as caught:
        await provider.build(bed.url, context, tag="thunderagent-test/never:1")
    assert (caught.value.code, caught.value.permanent) == ("build_failed", True)
    with pytest.raises(ProviderError) as caught:
        await provider.build(bed.url, context / "nothing", tag="thunderagent-test/never:1")
    assert caught.value.code == "context_unreadable"
    assert not await provider.has_image(bed.url, "thunderagent-test/never:1")
