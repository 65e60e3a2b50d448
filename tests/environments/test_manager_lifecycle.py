"""The way of one environment through its life."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manager_tools import House, in_virtual_time, spec

if TYPE_CHECKING:
    from pathlib import Path


def test_prepared_used_paused_snapshotted_and_reclaimed(tmp_path: Path) -> None:
    async def story() -> None:
        async with House(tmp_path) as house:
            manager = house.manager
            views = await manager.declare("p", [spec()])
            assert [view.state for view in views] == ["requested"]
            manager.prepare("p")
            view = await manager.wait_ready("p", "shell", 10)
            assert view.state == "ready"
            await house.run("p", "write hello")
            assert house.state("p") == "in_use"
            manager.paused("p")
            await house.until_state("p", "paused")
            await house.until(lambda: house.box("p").liveness == "frozen")
            manager.restored("p")
            await house.until_state("p", "in_use")
            assert await house.run("p", "read") == "hello"
            await manager.snapshot("p", "shell")
            await house.until(lambda: not house.world.boxes)
            assert house.state("p") == "snapshotted"
            assert await house.run("p", "read") == "hello"
            assert await manager.ended("p", "released")
            await house.until(lambda: not manager.all_views())
            house.assert_nothing_left()

    in_virtual_time(story())
