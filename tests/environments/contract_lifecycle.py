"""The contract of ``Provider``: making, looking, stopping, freezing, removing, counting."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

import pytest
from contract import DEADLINE_S, WORKDIR, eventually

from thunderagent_core.environments.base import Found, Kind, Liveness, Place, ProviderError

if TYPE_CHECKING:
    from contract import Subject


async def liveness(subject: Subject, name: str = "e1") -> Liveness:
    return (await subject.provider.look(subject.place(name))).liveness


class CreateContract:
    async def test_it_runs_commands_once_it_is_made(self, subject: Subject) -> None:
        sighting = await subject.create()
        assert sighting.liveness is Liveness.ALIVE
        assert (await subject.sh("echo made")).out == b"made\n"

    async def test_making_it_again_goes_on_from_there(self, subject: Subject) -> None:
        first = await subject.create()
        await subject.sh("echo kept >file")
        assert await subject.create() == first
        assert (await subject.sh("cat file")).out == b"kept\n"

    async def test_a_second_provider_adopts_it(self, subject: Subject) -> None:
        await subject.create()
        await subject.sh("echo kept >file")
        subject.provider, first = subject.another(), subject.provider
        subject.opened.append(first)
        assert await liveness(subject) is Liveness.ALIVE
        assert (await subject.create()).liveness is Liveness.ALIVE
        assert (await subject.sh("cat file")).out == b"kept\n"

    async def test_one_that_stopped_is_started(self, subject: Subject) -> None:
        await subject.create()
        await subject.sh("echo kept >file")
        await subject.kill(subject.place())
        assert (await subject.create()).liveness is Liveness.ALIVE
        assert (await subject.sh("cat file")).out == b"kept\n"

    async def test_one_that_is_frozen_is_thawed(self, subject: Subject) -> None:
        await subject.create()
        await subject.provider.freeze(subject.place())
        assert (await subject.create()).liveness is Liveness.ALIVE
        assert (await subject.sh("echo on")).out == b"on\n"

    async def test_two_who_make_the_same_get_the_same(self, subject: Subject) -> None:
        twice = await asyncio.gather(subject.create(), subject.create())
        assert [sighting.liveness for sighting in twice] == [Liveness.ALIVE] * 2
        await subject.sh("echo one >file")
        assert (await subject.sh("cat file")).out == b"one\n"

    async def test_many_at_once(self, subject: Subject) -> None:
        names = [f"e{index}" for index in range(6)]
        await asyncio.gather(*(subject.create(name) for name in names))
        said = await asyncio.gather(*(subject.sh(f"echo {name} >file; cat file", name) for name in names))
        assert [each.out.decode().strip() for each in said] == names

    async def test_an_image_that_is_not_there(self, subject: Subject) -> None:
        with pytest.raises(ProviderError) as caught:
            await subject.create(image=subject.missing_image)
        assert caught.value.permanent
        await subject.provider.destroy(subject.place())
        assert await liveness(subject) is Liveness.GONE

    async def test_a_snapshot_that_is_not_there(self, subject: Subject) -> None:
        with pytest.raises(ProviderError) as caught:
            await subject.create(snapshot=subject.snapshot_name("never"))
        assert caught.value.permanent
        await subject.provider.destroy(subject.place())
        assert await liveness(subject) is Liveness.GONE

    @pytest.mark.parametrize("after_s", [0.0, 0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.2])
    async def test_cancelled_and_destroyed_leaves_nothing(self, subject: Subject, after_s: float) -> None:
        making = asyncio.create_task(subject.create())
        await asyncio.wait([making], timeout=after_s)
        making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await making
        await subject.provider.destroy(subject.place())
        assert await liveness(subject) is Liveness.GONE
        assert await subject.provider.survey(subject.endpoint) == []
        assert await subject.leftovers(subject.installation) == []


class DestroyContract:
    async def test_one_that_never_was(self, subject: Subject) -> None:
        await subject.provider.destroy(subject.place())
        assert await liveness(subject) is Liveness.GONE

    async def test_one_that_runs_with_all_its_processes(self, subject: Subject) -> None:
        await subject.create()
        started = await subject.sh("(trap '' TERM; sleep 1000) >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 & echo on")
        assert started.out == b"on\n"
        await self.destroy_twice(subject)

    async def test_one_that_stopped(self, subject: Subject) -> None:
        await subject.create()
        await subject.kill(subject.place())
        await self.destroy_twice(subject)

    async def test_one_that_is_frozen(self, subject: Subject) -> None:
        await subject.create()
        await subject.provider.freeze(subject.place())
        await self.destroy_twice(subject)

    async def test_by_a_provider_that_did_not_make_it(self, subject: Subject) -> None:
        await subject.create()
        await subject.another().destroy(subject.place())
        assert await liveness(subject) is Liveness.GONE

    async def test_twice_at_the_same_time(self, subject: Subject) -> None:
        await subject.create()
        await asyncio.gather(*(subject.provider.destroy(subject.place()) for _ in range(3)))
        assert await liveness(subject) is Liveness.GONE

    async def test_a_command_in_it_ends(self, subject: Subject) -> None:
        await subject.create()
        process = await subject.provider.spawn(subject.place(), ("/bin/sh", "-c", "echo on; sleep 1000"))
        assert (await process.read()) is not None
        await subject.provider.destroy(subject.place())
        async with asyncio.timeout(DEADLINE_S):
            while await process.read() is not None:
                pass
        await process.aclose()

    async def test_made_again_it_is_blank(self, subject: Subject) -> None:
        await subject.create()
        await subject.sh("echo old >file")
        await subject.provider.destroy(subject.place())
        await subject.create()
        assert (await subject.sh("cat file")).status != 0

    async def destroy_twice(self, subject: Subject) -> None:
        await subject.provider.destroy(subject.place())
        assert await liveness(subject) is Liveness.GONE
        assert await subject.leftovers(subject.installation) == []
        await subject.provider.destroy(subject.place())
        assert await liveness(subject) is Liveness.GONE


class LookContract:
    async def test_what_is_seen_is_what_is(self, subject: Subject) -> None:
        provider, place = subject.provider, subject.place()
        assert await liveness(subject) is Liveness.GONE
        await subject.create()
        assert await liveness(subject) is Liveness.ALIVE
        await provider.freeze(place)
        assert await liveness(subject) is Liveness.FROZEN
        await provider.thaw(place)
        assert await liveness(subject) is Liveness.ALIVE
        await subject.kill(place)
        assert await liveness(subject) is Liveness.STOPPED
        await provider.start(place)
        assert await liveness(subject) is Liveness.ALIVE
        await provider.destroy(place)
        assert await liveness(subject) is Liveness.GONE

    async def test_a_frozen_one_that_is_killed_is_stopped(self, subject: Subject) -> None:
        await subject.create()
        await subject.provider.freeze(subject.place())
        await subject.kill(subject.place())
        assert await liveness(subject) is Liveness.STOPPED
        assert (await subject.provider.start(subject.place())).liveness is Liveness.ALIVE

    async def test_a_second_provider_sees_the_same(self, subject: Subject) -> None:
        await subject.create()
        await subject.provider.freeze(subject.place())
        assert (await subject.another().look(subject.place())).liveness is Liveness.FROZEN


class StartContract:
    async def test_it_keeps_files(self, subject: Subject) -> None:
        await subject.create()
        await subject.sh("mkdir -p deep/er; echo kept >deep/er/file")
        await subject.kill(subject.place())
        assert (await subject.provider.start(subject.place())).liveness is Liveness.ALIVE
        assert (await subject.sh("cat deep/er/file")).out == b"kept\n"

    async def test_it_may_be_started_again_and_again(self, subject: Subject) -> None:
        await subject.create()
        first = await subject.provider.start(subject.place())
        assert first == await subject.provider.start(subject.place())

    async def test_one_that_is_gone_cannot_be(self, subject: Subject) -> None:
        with pytest.raises(ProviderError):
            await subject.provider.start(subject.place())

    async def test_ports_are_read_after_every_start(self, subject: Subject) -> None:
        inside = (8080,) if subject.has_ports else ()
        made = await subject.create(ports=inside)
        assert set(made.ports) == set(inside)
        assert all(0 < port < 65536 for port in made.ports.values())
        await subject.kill(subject.place())
        started = await subject.provider.start(subject.place())
        assert set(started.ports) == set(inside)
        assert (await subject.provider.look(subject.place())).ports == started.ports

    async def test_two_have_different_ports(self, subject: Subject) -> None:
        inside = (8080, 9090) if subject.has_ports else ()
        one, other = await asyncio.gather(subject.create("e1", ports=inside), subject.create("e2", ports=inside))
        given = [*one.ports.values(), *other.ports.values()]
        assert len(set(given)) == len(given) == 2 * len(inside)


class FreezeContract:
    async def test_processes_stand_still_and_go_on(self, subject: Subject) -> None:
        await subject.create()
        ticking = "while :; do echo tick; sleep 0.05; done"
        process = await subject.provider.spawn(subject.place(), ("/bin/sh", "-c", ticking))
        await process.read()
        await subject.provider.freeze(subject.place())
        reading = asyncio.create_task(process.read())
        while (await asyncio.wait([reading], timeout=1.0))[0]:  # what was under way
            reading = asyncio.create_task(process.read())
        await subject.provider.thaw(subject.place())
        async with asyncio.timeout(DEADLINE_S):
            assert await reading is not None
        await subject.provider.destroy(subject.place())
        await process.aclose()

    async def test_twice_is_once(self, subject: Subject) -> None:
        await subject.create()
        for _ in range(2):
            await subject.provider.freeze(subject.place())
        assert await liveness(subject) is Liveness.FROZEN
        for _ in range(2):
            await subject.provider.thaw(subject.place())
        assert await liveness(subject) is Liveness.ALIVE
        assert (await subject.sh("echo on")).out == b"on\n"

    async def test_one_that_is_gone_cannot_be(self, subject: Subject) -> None:
        for effect in (subject.provider.freeze, subject.provider.thaw):
            with pytest.raises(ProviderError):
                await effect(subject.place())


class SpawnContract:
    async def test_outputs_and_status(self, subject: Subject) -> None:
        await subject.create()
        said = await subject.sh("echo out; echo err >&2; exit 7")
        assert (said.status, said.out, said.err) == (7, b"out\n", b"err\n")

    async def test_a_signal_is_128_and_its_number(self, subject: Subject) -> None:
        await subject.create()
        assert (await subject.sh("kill -KILL $$")).status == 128 + 9

    async def test_signals_are_as_at_birth(self, subject: Subject) -> None:
        await subject.create()
        for name, number in (("TERM", 15), ("HUP", 1), ("INT", 2), ("PIPE", 13)):
            assert (await subject.sh(f"kill -{name} $$; echo survived")).status == 128 + number

    async def test_input_and_output_are_bytes(self, subject: Subject) -> None:
        await subject.create()
        content = bytes(range(256)) * 2000
        process = await subject.provider.spawn(subject.place(), ("cat",))
        writing = asyncio.create_task(self.feed(process, content))
        output = b""
        while (piece := await process.read()) is not None:
            output += piece[1]
        await writing
        assert await process.wait() == 0
        await process.aclose()
        assert output == content

    async def feed(self, process, content: bytes) -> None:
        for at in range(0, len(content), 10_000):
            await process.write(content[at : at + 10_000])
        await process.close_input()

    async def test_variables_and_directory(self, subject: Subject) -> None:
        await subject.create()
        said = await subject.sh('echo "$ONE|$TWO"; pwd', env={"ONE": "it's $1", "TWO": "a\nb"})
        assert said.out.startswith(b"it's $1|a\nb\n")
        assert said.out.rstrip().endswith(WORKDIR.encode())

    async def test_the_directory_of_the_specification_is_the_default_and_is_made(self, subject: Subject) -> None:
        await subject.create(workdir="/made/for/it")
        said = await subject.sh("pwd", workdir=None)
        assert said.out.rstrip().endswith(b"/made/for/it")

    async def test_it_leads_a_session(self, subject: Subject) -> None:
        await subject.create()
        said = await subject.sh("read -r pid name state parent group session rest </proc/self/stat; echo $pid $session")
        pid, session = said.out.split()
        assert pid == session

    @pytest.mark.parametrize("state", ["gone", "stopped", "frozen"])
    async def test_only_where_it_is_alive(self, subject: Subject, state: str) -> None:
        if state != "gone":
            await subject.create()
        if state == "stopped":
            await subject.kill(subject.place())
        elif state == "frozen":
            await subject.provider.freeze(subject.place())
        with pytest.raises(ProviderError):
            await subject.provider.spawn(subject.place(), ("/bin/sh", "-c", "true"))

    async def test_many_at_once(self, subject: Subject) -> None:
        await subject.create()
        said = await asyncio.gather(*(subject.sh(f"echo {index}") for index in range(8)))
        assert [int(each.out) for each in said] == list(range(8))


class SurveyContract:
    async def test_everything_of_ours_and_nothing_of_others(self, subject: Subject) -> None:
        other = f"{subject.installation}x"
        stranger = subject.another(other)
        await stranger.create(subject.plan("e9", installation=other))
        try:
            for name in ("e1", "e2", "e3"):
                await subject.create(name)
            await subject.provider.freeze(subject.place("e2"))
            await subject.kill(subject.place("e3"))
            await subject.provider.snapshot(subject.place("e1"), subject.snapshot_name(), subject.labels("e1"))
            found = await subject.provider.survey(subject.endpoint)
            assert sorted(found, key=lambda each: (each.kind, each.name)) == [
                Found(Kind.ENVIRONMENT, subject.place("e1").handle, "e1", Liveness.ALIVE),
                Found(Kind.ENVIRONMENT, subject.place("e2").handle, "e2", Liveness.FROZEN),
                Found(Kind.ENVIRONMENT, subject.place("e3").handle, "e3", Liveness.STOPPED),
                Found(Kind.SNAPSHOT, subject.snapshot_name(), "e1", found[-1].liveness),
            ]
            assert [each.environment_id for each in await stranger.survey(subject.endpoint)] == ["e9"]
        finally:
            await stranger.destroy(subject.place("e9", other))
        assert await subject.leftovers(other) == []

    async def test_what_is_not_ours_stays_untouched(self, subject: Subject) -> None:
        other = f"{subject.installation}x"
        stranger = subject.another(other)
        place = subject.place("e1", other)
        name = f"thunder-{other}-s1"
        await stranger.create(subject.plan("e1", installation=other))
        try:
            await stranger.snapshot(place, name, subject.labels("e1", other))
            with contextlib.suppress(ProviderError):
                await subject.provider.destroy(place)
            with contextlib.suppress(ProviderError):
                await subject.provider.drop_snapshot(subject.endpoint, name)
            for effect in (subject.provider.freeze, subject.provider.start):
                with contextlib.suppress(ProviderError):
                    await effect(place)
            assert not await subject.provider.snapshot_is_whole(subject.endpoint, name)
            assert (await stranger.look(place)).liveness is Liveness.ALIVE
            assert await stranger.snapshot_is_whole(subject.endpoint, name)
            with pytest.raises(ProviderError):
                await subject.provider.create(subject.plan("e1", installation=other))
        finally:
            await stranger.destroy(place)
            await stranger.drop_snapshot(subject.endpoint, name)

    async def test_rooms(self, subject: Subject) -> None:
        (before,) = await subject.provider.rooms()
        await subject.create()
        (after,) = await subject.provider.rooms()
        assert after.endpoint == subject.endpoint
        assert after.free_disk_bytes > 0
        assert after.environments == before.environments + 1

    async def test_disk_is_what_is_allocated(self, subject: Subject) -> None:
        await subject.create()
        before = await subject.provider.disk_bytes(subject.place())
        assert before is not None
        await subject.sh("head -c 5242880 /dev/urandom >file; sync file || sync")

        async def grown() -> bool:
            now = await subject.provider.disk_bytes(subject.place())
            return now is not None and now >= before + 5 * (1 << 20)

        await eventually(grown)

    async def test_a_death_is_told(self, subject: Subject) -> None:
        deaths = subject.provider.deaths()
        heard: list[Place] = []

        async def listen() -> None:
            async for place in deaths:
                heard.append(place)  # noqa: PERF401 - they are read meanwhile

        listening = asyncio.create_task(listen())
        try:
            for attempt in range(20):  # it may take a while before somebody listens
                name = f"e{attempt}"
                await subject.create(name)
                await subject.kill(subject.place(name))
                await asyncio.wait([listening], timeout=1.0)
                if heard:
                    break
        finally:
            listening.cancel()
            await asyncio.wait([listening])
        assert heard
        assert {place.endpoint for place in heard} == {subject.endpoint}
        assert all(re.fullmatch(rf"thunder-{subject.installation}-e\d+", place.handle) for place in heard)

    async def test_what_we_destroy_is_no_death(self, subject: Subject) -> None:
        heard: list[Place] = []

        async def listen() -> None:
            async for place in subject.provider.deaths():
                heard.append(place)  # noqa: PERF401 - they are read meanwhile

        listening = asyncio.create_task(listen())
        try:
            for index in range(3):
                await subject.create(f"e{index}")
                await subject.provider.destroy(subject.place(f"e{index}"))
            await asyncio.wait([listening], timeout=1.0)
        finally:
            listening.cancel()
            await asyncio.wait([listening])
        assert heard == []


class SnapshotContract:
    async def test_files_and_deletions_come_back(self, subject: Subject) -> None:
        name = subject.snapshot_name()
        await subject.create()
        await subject.sh("mkdir -p d; echo one >d/kept; echo two >gone; chmod 751 d/kept; ln -s d/kept link; rm gone")
        victim = subject.image_file
        if victim:
            assert (await subject.sh(f"rm {victim}", workdir="/")).status == 0
        await subject.provider.snapshot(subject.place(), name, subject.labels())
        assert await subject.provider.snapshot_is_whole(subject.endpoint, name)
        await subject.sh("echo later >later")
        await subject.provider.destroy(subject.place())
        assert await subject.provider.snapshot_is_whole(subject.endpoint, name)
        await subject.create(snapshot=name)
        said = await subject.sh("cat link; ls -l d/kept; ls")
        assert said.out.startswith(b"one\n-rwxr-x--x")
        assert said.out.split()[-2:] == [b"d", b"link"]
        if victim:
            assert (await subject.sh(f"ls {victim}", workdir="/")).status != 0

    async def test_it_can_be_taken_from_a_frozen_one(self, subject: Subject) -> None:
        await subject.create()
        await subject.sh("echo kept >file")
        await subject.provider.freeze(subject.place())
        await subject.provider.snapshot(subject.place(), subject.snapshot_name(), subject.labels())
        assert await liveness(subject) is Liveness.FROZEN
        await subject.provider.destroy(subject.place())
        await subject.create(snapshot=subject.snapshot_name())
        assert (await subject.sh("cat file")).out == b"kept\n"

    async def test_it_leaves_the_environment_as_it_was(self, subject: Subject) -> None:
        await subject.create()
        await subject.sh("echo kept >file")
        await subject.provider.snapshot(subject.place(), subject.snapshot_name(), subject.labels())
        assert await liveness(subject) is Liveness.ALIVE
        assert (await subject.sh("cat file")).out == b"kept\n"

    async def test_a_restored_one_can_be_stored_again(self, subject: Subject) -> None:
        await subject.create()
        await subject.sh("echo one >one")
        await subject.provider.snapshot(subject.place(), subject.snapshot_name("s1"), subject.labels())
        await subject.provider.destroy(subject.place())
        await subject.create(snapshot=subject.snapshot_name("s1"))
        await subject.sh("echo two >two; rm one")
        await subject.provider.snapshot(subject.place(), subject.snapshot_name("s2"), subject.labels())
        await subject.provider.destroy(subject.place())
        await subject.provider.drop_snapshot(subject.endpoint, subject.snapshot_name("s1"))
        assert await subject.provider.snapshot_is_whole(subject.endpoint, subject.snapshot_name("s2"))
        await subject.create(snapshot=subject.snapshot_name("s2"))
        assert (await subject.sh("ls")).out == b"two\n"

    async def test_the_same_name_is_replaced(self, subject: Subject) -> None:
        await subject.create()
        for content in ("old", "new"):
            await subject.sh(f"echo {content} >file")
            await subject.provider.snapshot(subject.place(), subject.snapshot_name(), subject.labels())
        await subject.provider.destroy(subject.place())
        await subject.create(snapshot=subject.snapshot_name())
        assert (await subject.sh("cat file")).out == b"new\n"

    async def test_dropped_it_is_gone_and_nothing_else(self, subject: Subject) -> None:
        await subject.create()
        for name in ("s1", "s2"):
            await subject.provider.snapshot(subject.place(), subject.snapshot_name(name), subject.labels())
        for _ in range(2):
            await subject.provider.drop_snapshot(subject.endpoint, subject.snapshot_name("s1"))
        assert not await subject.provider.snapshot_is_whole(subject.endpoint, subject.snapshot_name("s1"))
        assert await subject.provider.snapshot_is_whole(subject.endpoint, subject.snapshot_name("s2"))
        assert await liveness(subject) is Liveness.ALIVE

    async def test_one_that_never_was(self, subject: Subject) -> None:
        assert not await subject.provider.snapshot_is_whole(subject.endpoint, subject.snapshot_name("never"))
        await subject.provider.drop_snapshot(subject.endpoint, subject.snapshot_name("never"))

    async def test_of_one_that_is_gone(self, subject: Subject) -> None:
        with pytest.raises(ProviderError):
            await subject.provider.snapshot(subject.place(), subject.snapshot_name(), subject.labels())

    @pytest.mark.parametrize("after_s", [0.0, 0.002, 0.01, 0.04])
    async def test_cancelled_it_is_whole_or_nothing_and_can_be_taken_again(
        self, subject: Subject, after_s: float
    ) -> None:
        await subject.create()
        await subject.sh("echo kept >file; head -c 1000000 /dev/urandom >big")
        taking = asyncio.create_task(
            subject.provider.snapshot(subject.place(), subject.snapshot_name(), subject.labels())
        )
        await asyncio.wait([taking], timeout=after_s)
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await taking
        await subject.provider.thaw(subject.place())
        await subject.provider.snapshot(subject.place(), subject.snapshot_name(), subject.labels())
        assert await subject.provider.snapshot_is_whole(subject.endpoint, subject.snapshot_name())
        await subject.provider.destroy(subject.place())
        await subject.create(snapshot=subject.snapshot_name())
        assert (await subject.sh("cat file")).out == b"kept\n"
