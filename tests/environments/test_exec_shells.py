"""Channels over each kind of shell that this machine has, with and without ``setsid``."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest
from contract import WORKDIR, eventually
from contract_exec import begun, idle, marked, none_left, out, sh
from scripted_bed import PLACE, scripted_environment

from thunderagent_core.environments.exec import ExecError, Executor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SHELLS = {
    name: (shutil.which(words[0]) or "", *words[1:])
    for name, words in {
        "dash": ("dash",),
        "bash": ("bash", "--posix"),
        "busybox": ("busybox", "ash"),
    }.items()
    if shutil.which(words[0])
}
PROGRAMS = "cat sleep ls grep tr touch seq true".split()  # noqa: SIM905 - shorter


@pytest.fixture(params=list(SHELLS))
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["setsid", "without"])
async def executor(request: pytest.FixtureRequest, shell: str, tmp_path: Path) -> AsyncIterator[Executor]:
    env = {}
    if request.param == "without":
        for name in PROGRAMS:
            (tmp_path / name).symlink_to(shutil.which(name) or "")
        env = {"PATH": str(tmp_path)}
    async with scripted_environment(shell=SHELLS[shell]) as provider:
        executor = Executor(provider, PLACE, env=env, workdir=WORKDIR, grace_s=0.3)
        yield executor
        await executor.aclose()


class TestShells:
    async def test_which_way_is_taken(self, executor: Executor, request: pytest.FixtureRequest) -> None:
        channel = await executor._pool.acquire()
        case = request.node.callspec.id
        if "without" not in case or "bash" in case:
            assert not channel.single
        if "dash" in case and "without" in case:
            assert channel.single

    async def test_commands_one_after_another(self, executor: Executor) -> None:
        for index in range(5):
            result = await sh(executor, f"echo {index}; echo e >&2; cat; exit {index}", env={"A": "it's"})
            assert (result.exit_code, result.stdout, result.stderr) == (index, b"%d\n" % index, b"e\n")
        assert await out(executor, 'echo "$A|$OLDPWD"', env={"A": "it's"}) == "it's|"
        assert (await sh(executor, "kill -TERM $$")).exit_code == 143

    async def test_a_process_group_of_its_own(self, executor: Executor) -> None:
        assert (await sh(executor, "kill -TERM 0")).exit_code == 143
        assert await out(executor, "echo on") == "on"

    async def test_a_long_command(self, executor: Executor) -> None:
        text = "it''s é" * 30_000
        assert await out(executor, f"cat <<'END'\n{text}\nEND\n") == text

    async def test_a_directory_or_a_variable_that_cannot_be(self, executor: Executor) -> None:
        with pytest.raises(ExecError) as caught:
            await sh(executor, "pwd", workdir="missing")
        assert caught.value.code == "workdir_not_found"
        assert await out(executor, "echo on") == "on"

    async def test_time_up(self, executor: Executor) -> None:
        number, count = marked()
        result = await sh(executor, f"trap '' TERM; sleep {number} & (sleep {number}; true); echo no", timeout_s=0.3)
        assert result.timed_out
        assert b"no" not in result.stdout
        assert await none_left(executor, count)

    async def test_earlier_background_processes_outlive_a_command_that_is_ended(self, executor: Executor) -> None:
        number, count = marked()
        await sh(executor, f"sleep {number} >/dev/null 2>&1 &")
        result = await sh(executor, "sleep 1000", timeout_s=0.3)
        assert result.timed_out
        assert (await sh(executor, count)).stdout.strip() == b"1"

    async def test_the_caller_goes(self, executor: Executor) -> None:
        number, count = marked()
        running = asyncio.create_task(sh(executor, f"touch begun; sleep {number} & sleep {number}"))
        await eventually(lambda: begun(executor))
        running.cancel()
        await asyncio.wait([running])
        await eventually(lambda: idle(executor))
        assert await none_left(executor, count)

    async def test_background_output_is_not_foreign(self, executor: Executor) -> None:
        await sh(executor, "(while :; do echo foreign; sleep 0.01; done) &")
        for index in range(5):
            assert await out(executor, f"echo {index}; sleep 0.02") == str(index)


async def test_without_a_shell() -> None:
    async with scripted_environment(shell=("/bin/false",)) as provider:  # noqa: S604 - the name of a shell
        executor = Executor(provider, PLACE, workdir=WORKDIR)
        with pytest.raises(ExecError) as caught:
            await sh(executor, "true")
        assert caught.value.code == "no_shell"
        await executor.aclose()
