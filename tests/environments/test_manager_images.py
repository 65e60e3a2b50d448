"""Images that we brought are collected, least recently used first; nothing else is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from manager_tools import MIB, House, in_virtual_time, spec

from thunderagent_core.environments.manager.settings import WarmPool
from thunderagent_core.environments.scripted.faults import Fault, How, Moment
from thunderagent_core.environments.scripted.world import ScriptedWorld

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

SIZE = 100 * MIB


class Home(House):
    """A house with images of 100 MiB."""

    def there(self) -> list[str]:
        """Return the images that the daemon holds."""
        return sorted(image for _, image in self.world.stored_images)

    def known(self) -> list[str]:
        """Return the images that we remember to have brought."""
        return sorted(row.reference for row in self.manager._records.images.values())

    async def make(self, program_id: str, image: str) -> None:
        await self.manager.declare(program_id, [spec(image=image)])
        await self.manager.wait_ready(program_id, "shell", 60)

    async def end(self, program_id: str) -> None:
        await self.manager.ended(program_id, "released")
        await self.until(lambda: not self.manager.views(program_id))

    async def visit(self, program_id: str, image: str) -> None:
        await self.make(program_id, image)
        await self.end(program_id)

    async def settle(self) -> None:
        """Let everything happen that happens by itself."""
        await asyncio.sleep(100)


def tell(path: Path, story: Callable[[Home], Awaitable[None]], **settings: Any) -> None:
    """Run a story in a house."""

    async def run() -> None:
        async with Home(path, **settings) as home:  # type: ignore[attr-defined]
            await story(home)  # type: ignore[arg-type]

    in_virtual_time(run())


def test_the_least_recently_used_go_first_until_the_low_mark(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        for image in ("a", "b", "c"):
            await home.visit(f"uses {image}", image)
            await asyncio.sleep(1)
        assert home.there() == ["a", "b", "c"]
        await home.visit("uses a again", "a")
        assert (home.manager.statistics().images, home.manager.statistics().image_bytes) == (3, 3 * SIZE)
        await home.visit("uses d", "d")
        await home.until(lambda: home.there() == ["a", "d"])
        await home.settle()
        assert (home.there(), home.known()) == (["a", "d"], ["a", "d"])
        counts = home.manager.statistics().counts
        assert (counts.images_brought, counts.images_removed) == (4, 2)

    tell(tmp_path, story, image_high_bytes=3 * SIZE, image_low_bytes=2 * SIZE)


def test_without_a_mark_nothing_goes(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        for image in "abcdef":
            await home.visit(image, image)
        await home.settle()
        assert home.there() == list("abcdef")

    tell(tmp_path, story)


def test_what_is_needed_stays_in_whatever_state(tmp_path: Path) -> None:
    """Live, queued, put aside, and wanted by a warm pool: each keeps its image, even far above the mark."""

    async def story(home: Home) -> None:
        manager = home.manager
        await home.make("live", "live")
        await home.visit("before the queue", "queued")
        await home.make("aside", "aside")
        await home.run("aside", "write x")
        await manager.snapshot("aside", "shell")
        await home.until(lambda: home.state("aside") == "snapshotted")
        await home.until(lambda: "warm" in home.there())
        await home.settle()
        assert home.there() == ["aside", "live", "queued", "warm"] or "queued" not in home.there()
        await manager.declare("waits", [spec(image="queued")])  # and nobody orders it
        await home.make("other", "queued")
        await home.end("other")
        await home.settle()
        assert home.there() == ["aside", "live", "queued", "warm"]
        for program in ("live", "waits", "aside"):
            await home.end(program)
        await home.until(lambda: home.there() == ["warm"])

    pool = WarmPool(spec(image="warm"), 1)
    tell(tmp_path, story, image_high_bytes=0, warm=(pool,))


def test_what_was_there_before_us_stays(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        home.world.store_image("", "theirs")
        await home.visit("p", "theirs")
        await home.visit("q", "ours")
        await home.until(lambda: home.there() == ["theirs"])
        await home.settle()
        assert home.there() == ["theirs"]

    tell(tmp_path, story, image_high_bytes=0)


def test_another_image_of_the_same_name_is_not_ours(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        await home.make("p", "shared")
        home.world.store_image("", "shared")  # a person pulls a newer one
        await home.end("p")
        await home.until(lambda: not home.known())
        assert home.there() == ["shared"]

    tell(tmp_path, story, image_high_bytes=0)


def test_what_a_person_has_removed_is_forgotten(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        await home.visit("p", "a")
        home.world.stored_images.clear()
        home.world.store_image("", "b")
        await home.visit("q", "c")
        await home.until(lambda: home.known() == ["c"])
        await home.settle()
        assert home.there() == ["b", "c"]

    tell(tmp_path, story, image_high_bytes=SIZE)


def test_one_that_somebody_else_uses_is_tried_again(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        home.world.faults.add(Fault(operation="drop_image", how=How.FAIL, code="image_in_use", times=3))
        await home.visit("p", "a")
        await home.until(lambda: home.world.calls["drop_image"] >= 2)
        assert (home.there(), home.known()) == (["a"], ["a"])
        await home.until(lambda: not home.there())
        await home.until(lambda: not home.known())

    tell(tmp_path, story, image_high_bytes=0)


def test_an_environment_waits_until_its_image_is_gone_and_pulls_it_again(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        gate = asyncio.Event()
        home.world.faults.add(Fault(operation="drop_image", how=How.WAIT, moment=Moment.BEFORE, gate=gate))
        await home.visit("p", "a")
        await home.until(lambda: home.world.calls["drop_image"])
        await home.manager.declare("q", [spec(image="a")])
        home.manager.prepare("q")
        await home.settle()
        assert home.state("q") == "preparing"
        gate.set()
        view = await home.manager.wait_ready("q", "shell", 60)
        assert view.state == "ready"
        assert home.world.calls["pull"] == 2
        await home.settle()
        assert (home.there(), home.known()) == (["a"], ["a"])

    tell(tmp_path, story, image_high_bytes=0)


def test_a_pull_that_fails_for_certain_claims_nothing(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        home.world.images = frozenset({"b"})
        with pytest.raises(Exception, match="no image 'a'"):
            await home.make("p", "a")
        assert home.known() == []
        home.world.store_image("", "a")  # a person has it
        await home.end("p")
        await home.settle()
        assert home.there() == ["a"]

    tell(tmp_path, story, image_high_bytes=0)


def test_what_was_being_brought_when_the_daemon_broke_off_is_looked_at(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        pull = Fault(operation="pull", how=How.UNAVAILABLE, moment=Moment.AFTER)
        home.world.faults.add(pull)
        await home.make("p", "a")  # at the second attempt it is there
        assert home.manager._records.images["scripted", "", "a"].identity is None
        await home.end("p")
        await home.until(lambda: not home.there())
        home.world.faults.add(Fault(operation="pull", how=How.UNAVAILABLE, moment=Moment.BEFORE, times=100))
        await home.manager.declare("q", [spec(image="b")])
        home.manager.prepare("q")
        await home.until(lambda: home.known() == ["b"])
        await home.end("q")
        await home.until(lambda: not home.known())

    tell(tmp_path, story, image_high_bytes=0)


def test_every_daemon_has_its_own_marks(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        await asyncio.gather(*(home.make(image, image) for image in ("a", "b", "c", "d")))
        assert {endpoint for endpoint, _ in home.world.stored_images} == {"east", "west"}
        for image in ("a", "b", "c", "d"):
            await home.end(image)
        await home.settle()
        assert len(home.there()) >= 2
        for endpoint in ("east", "west"):
            assert sum(at == endpoint for at, _ in home.world.stored_images) <= 1

    tell(tmp_path, story, image_high_bytes=SIZE, world=ScriptedWorld(endpoints=("east", "west")))


def test_it_goes_on_after_a_crash_at_any_point(tmp_path: Path) -> None:
    """Whenever the server is killed, what it brought is collected in the end, and what it did not bring stays."""

    async def life(home: Home) -> None:
        home.world.store_image("", "theirs")
        for program, image in (("p", "a"), ("q", "theirs"), ("r", "b")):
            await home.visit(program, image)
        await home.until(lambda: home.there() == ["theirs"])
        await home.until(lambda: not home.known())

    async def run(folder: Path, dies_after: int | None) -> bool:
        home = Home(folder, image_high_bytes=0)
        await home.open(dies_after=dies_after)
        living = asyncio.create_task(life(home))
        dying = asyncio.create_task(home.points.dead.wait())
        await asyncio.wait([living, dying], return_when=asyncio.FIRST_COMPLETED)
        survived = not home.points.died
        if survived:
            await living
        else:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            await home.restart()
            for program in ("p", "q", "r"):
                await home.manager.ended(program, "released")
            home.world.store_image("", "theirs")
            await home.until(lambda: not home.manager.all_views())
            await home.until(lambda: home.there() == ["theirs"] and not home.known())
            home.assert_nothing_left()
        dying.cancel()
        await home.close()
        await home.world.aclose()
        return survived

    for point in range(2, 2000, 3):
        folder = tmp_path / str(point)
        folder.mkdir()
        if in_virtual_time(run(folder, point)):
            assert point > 30
            return
    pytest.fail("it never got to its end")


def test_a_drop_that_is_not_certain_is_not_counted(tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        home.world.faults.add(Fault(operation="drop_image", how=How.UNAVAILABLE, moment=Moment.AFTER))
        await home.visit("p", "a")
        await home.until(lambda: not home.there())
        await home.until(lambda: not home.known())
        assert home.manager.statistics().counts.images_removed == 0

    tell(tmp_path, story, image_high_bytes=0)
