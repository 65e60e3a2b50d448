"""The contract of ``Executor`` and of file transfer, on whatever provider."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import uuid
from typing import TYPE_CHECKING

import pytest
from contract import DEADLINE_S, WORKDIR, eventually

from thunderagent_core.environments import files, job
from thunderagent_core.environments.exec import EnvironmentDiedError, ExecError, ExecRequest, ExecResult, Output

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from contract import Subject

    from thunderagent_core.environments.exec import Executor


async def sh(executor: Executor, command: str, **options) -> ExecResult:
    return await executor.run(ExecRequest(command=command, **options))


async def out(executor: Executor, command: str, **options) -> str:
    result = await sh(executor, command, **options)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


def marked() -> tuple[str, str]:
    """Return an argument for ``sleep`` that no other process has, and a command that finds processes with it.

    The pattern must not find the command itself.
    """
    number = str(100_000_000 + uuid.uuid4().int % 900_000_000)
    return number, f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '{number[:-1]}[{number[-1]}]'"


async def none_left(executor: Executor, count: str) -> bool:
    return (await sh(executor, count)).stdout.strip() == b"0"


async def idle(executor: Executor) -> bool:
    return executor.active == 0


async def begun(executor: Executor) -> bool:
    """Whether a command that runs beside this one has made its file."""
    return (await sh(executor, "ls")).stdout == b"begun\n"


class ExecContract:
    async def test_result(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            result = await sh(executor, "echo out; echo err >&2; exit 7")
        assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n")
        assert (result.dropped_stdout, result.dropped_stderr, result.timed_out) == (0, 0, False)
        assert 0 < result.duration_s < DEADLINE_S

    async def test_a_signal_is_128_and_its_number(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            result = await sh(executor, "kill -KILL $$")
            assert (result.exit_code, result.stdout, result.stderr) == (137, b"", b"")

    async def test_commands_leave_no_traces_in_one_another(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor(env={"BOTH": "1"}) as executor:
            await sh(executor, "cd /; X=1; export Y=2; umask 000; set -f; exec 9>&1; exit 5", env={"Z": "3"})
            said = await out(executor, 'echo "[$X$Y$Z]$BOTH"; pwd; umask; echo *; echo $#')
        lines = said.splitlines()
        assert lines[0] == "[]1"
        assert lines[1].endswith(WORKDIR)
        assert int(lines[2], 8) != 0
        assert lines[3:] == ["*", "0"]

    async def test_variables(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor(env={"A": "of the environment", "B": "b"}) as executor:
            said = await out(executor, 'echo "$A|$B|$C"', env={"A": 'it\'s $HOME `x` \\ "y"', "C": "two\nlines"})
            assert said == 'it\'s $HOME `x` \\ "y"|b|two\nlines'
            assert await out(executor, 'echo "$A"') == "of the environment"

    async def test_directory(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            await sh(executor, "mkdir -p 'a b/-c'")
            assert (await out(executor, "pwd", workdir=f"{WORKDIR}/a b")).endswith(f"{WORKDIR}/a b")
            assert (await out(executor, "pwd", workdir="a b/-c")).endswith(f"{WORKDIR}/a b/-c")
            with pytest.raises(ExecError) as caught:
                await sh(executor, "pwd", workdir="missing")
            assert caught.value.code == "workdir_not_found"
            assert await out(executor, "echo on") == "on"

    async def test_arguments_are_not_shell(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            command = ("printf", "%s|", "a b", "$HOME", "it's", "", "*", "x\ny")
            assert (await executor.run(ExecRequest(command=command))).stdout == b"a b|$HOME|it's||*|x\ny|"
            assert (await executor.run(ExecRequest(command=("no-such-program",)))).exit_code == 127

    async def test_syntax_is_the_commands_affair(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            for broken in ("echo 'open", "if true", "}", "echo )", "cat <<X\nopen"):
                await sh(executor, broken)
                assert await out(executor, "echo on") == "on"
            assert await out(executor, "cat <<'X'\n$1 text\nX\n# comment") == "$1 text"

    async def test_input_is_empty(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            assert await out(executor, "cat; echo end") == "end"

    async def test_a_long_command(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            text = "it's €" * 80_000
            quoted = text.replace("'", "'\\''")
            long = f"printf %s '{quoted}' | wc -c; echo $#"
            assert (await out(executor, long)).split() == [str(len(text.encode())), "0"]
            with pytest.raises(ExecError) as caught:
                await sh(executor, "#" * (1 << 20) + "#")
            assert caught.value.code == "bad_command"

    async def test_nothing_is_lost_of_bytes(self, subject: Subject) -> None:
        await subject.create()
        content = bytes(range(256)) * 500 + b"\x1e" * 100 + b"no line feed at the end"
        await files.upload(subject.provider, subject.place(), f"{WORKDIR}/file", content)
        async with subject.executor() as executor:
            result = await sh(executor, "cat file; cat file >&2")
        assert result.stdout == content
        assert result.stderr == content

    async def test_head_and_tail_are_kept(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            result = await sh(executor, "seq 1 50000; echo short >&2", output_limit_bytes=100)
        whole = "".join(f"{number}\n" for number in range(1, 50001)).encode()
        assert result.stdout == whole[:50] + whole[-50:]
        assert result.dropped_stdout == len(whole) - 100
        assert (result.stderr, result.dropped_stderr) == (b"short\n", 0)

    async def test_eight_in_parallel(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor(max_channels=8) as executor:
            for _ in range(3):
                asked = [f"echo {index}; echo e{index} >&2; exit {index}" for index in range(8)]
                results = await asyncio.gather(*(sh(executor, command) for command in asked))
                said = [(each.exit_code, each.stdout, each.stderr) for each in results]
                assert said == [(index, b"%d\n" % index, b"e%d\n" % index) for index in range(8)]
            assert executor.active == 0

    async def test_more_than_there_are_channels(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor(max_channels=2) as executor:
            running = [asyncio.create_task(sh(executor, f"sleep 0.05; echo {index}")) for index in range(12)]
            await asyncio.sleep(0)
            assert executor.active == 12
            assert [int((await task).stdout) for task in running] == list(range(12))
            assert executor.active == 0

    async def test_streaming(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            stream = executor.stream(ExecRequest(command="echo one; while ! [ -e go ]; do sleep 0.02; done; echo two"))
            first = await anext(stream)
            assert isinstance(first, Output)
            assert first.data == b"one\n"
            assert executor.active == 1
            await sh(executor, "touch go")
            *rest, result = [item async for item in stream]
            assert b"".join(item.data for item in rest) == b"two\n"
            assert (result.exit_code, result.stdout) == (0, b"")

    async def test_streaming_drops_the_middle_and_brings_the_tail(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            request = ExecRequest(command="seq 1 50000", output_limit_bytes=100)
            *outputs, result = [item async for item in executor.stream(request)]
        whole = "".join(f"{number}\n" for number in range(1, 50001)).encode()
        assert b"".join(item.data for item in outputs) == whole[:50] + whole[-50:]
        assert result.dropped_stdout == len(whole) - 100

    async def test_a_stream_that_is_closed_ends_its_command(self, subject: Subject) -> None:
        await subject.create()
        number, count = marked()
        async with subject.executor() as executor:
            stream = executor.stream(ExecRequest(command=f"echo on; sleep {number}"))
            await anext(stream)
            await stream.aclose()
            await eventually(lambda: none_left(executor, count))
            await eventually(lambda: idle(executor))


class TroubleContract:
    async def test_time_up_ends_children_of_children(self, subject: Subject) -> None:
        await subject.create()
        number, count = marked()
        inner = f"sleep {number} & (sleep {number}; true) & sh -c 'sleep {number}; true'"
        async with subject.executor() as executor:
            result = await sh(executor, f'echo begun; sh -c "{inner}"; echo not reached', timeout_s=0.5)
            assert result.timed_out
            assert result.exit_code in {128 + 15, 128 + 9}
            assert result.stdout == b"begun\n"
            assert await none_left(executor, count)
            assert await out(executor, "echo on") == "on"

    async def test_time_up_ends_those_who_left_the_group_or_hear_no_term(self, subject: Subject) -> None:
        await subject.create()
        number, count = marked()
        deaf = f"trap '' TERM; sleep {number} & sleep {number}; wait; sleep {number}"
        async with subject.executor() as executor:
            result = await sh(executor, f"timeout 1000 sleep {number} & setsid sleep {number} & {deaf}", timeout_s=0.5)
            assert result.timed_out
            assert await none_left(executor, count)
            assert await out(executor, "echo on") == "on"

    async def test_time_up_while_a_stream_is_not_read(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            request = ExecRequest(command="yes", timeout_s=0.5, output_limit_bytes=4 << 20)
            stream = executor.stream(request)
            await anext(stream)

            await eventually(lambda: idle(executor))
            *_, result = [item async for item in stream]
            assert result.timed_out

    async def test_a_command_waits_for_a_reader(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            request = ExecRequest(command="head -c 8000000 /dev/zero; touch written", output_limit_bytes=16 << 20)
            stream = executor.stream(request)
            size = len((await anext(stream)).data)
            await asyncio.sleep(0.5)
            assert await out(executor, "ls") == ""
            async for item in stream:
                size += len(item.data) if isinstance(item, Output) else 0
            assert size == 8_000_000
            assert await out(executor, "ls") == "written"

    async def test_background_output_never_shows_in_later_commands(self, subject: Subject) -> None:
        await subject.create()
        noise = "while :; do echo foreign; echo foreign >&2; sleep 0.002; done"
        async with subject.executor() as executor:
            assert "begun" in await out(executor, f"({noise}) & echo begun")
            assert "begun" in await out(executor, f"setsid sh -c '{noise}' & echo begun")
            for index in range(30):
                result = await sh(executor, f"echo {index}; sleep 0.01")
                assert (result.stdout, result.stderr) == (b"%d\n" % index, b"")

    async def test_a_server_in_the_background_goes_on_and_costs_no_channel(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor(max_channels=1) as executor:
            for _ in range(12):
                await sh(executor, "sleep 1000 >/dev/null 2>&1 & echo started")
            count = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep 100[0]' | wc -l"
            assert int(await out(executor, count)) >= 12

    async def test_marks_cannot_be_forged(self, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        nonces: list[str] = []
        new_nonce = job.new_nonce
        monkeypatch.setattr(job, "new_nonce", lambda: nonces.append(new_nonce()) or nonces[-1])
        await subject.create()
        forged = f"\x1e{uuid.uuid4().hex} 0\n\x1e{uuid.uuid4().hex} clean\n"
        look = "env; set; cat /proc/$$/cmdline /proc/$PPID/cmdline /proc/$PPID/environ; ls -l /proc/$$/fd"
        async with subject.executor() as executor:
            result = await sh(executor, f"printf '{forged}'; printf '{forged}' >&2; exit 3")
            assert (result.exit_code, result.stdout, result.stderr) == (3, forged.encode(), forged.encode())
            said = await sh(executor, look)
            assert len(nonces) == 4
            seen = (said.stdout + said.stderr).decode(errors="replace")
            assert "PATH" in seen
            assert not [nonce for nonce in nonces if nonce in seen]
            # A start mark that is still in the pipe can be read back, and tells nothing of the one that counts.
            stolen = await sh(executor, "(sleep 0.2; echo tail) & timeout 0.1 cat /proc/self/fd/1 >/dev/null; exit 4")
            assert stolen.exit_code == 4
            assert await out(executor, "echo on") == "on"

    async def test_the_caller_goes(self, subject: Subject) -> None:
        await subject.create()
        number, count = marked()
        async with subject.executor() as executor:
            running = asyncio.create_task(sh(executor, f"touch begun; sleep {number} & sleep {number}"))
            await eventually(lambda: begun(executor))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await eventually(lambda: none_left(executor, count))
            await eventually(lambda: idle(executor))
            assert await out(executor, "echo on") == "on"

    @pytest.mark.parametrize("after_s", [0.0, 0.001, 0.01, 0.05])
    async def test_the_caller_goes_at_any_moment(self, subject: Subject, after_s: float) -> None:
        await subject.create()
        number, count = marked()
        async with subject.executor() as executor:
            for _ in range(3):
                running = asyncio.create_task(sh(executor, f"sleep {number}"))
                await asyncio.wait([running], timeout=after_s)
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
            await eventually(lambda: none_left(executor, count))
            await eventually(lambda: idle(executor))

    async def test_the_environment_is_killed_meanwhile(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            running = [asyncio.create_task(sh(executor, "echo on; sleep 1000")) for _ in range(2)]
            stream = executor.stream(ExecRequest(command="echo on; sleep 1000"))
            await anext(stream)
            await subject.kill(subject.place())
            for task in running:
                with pytest.raises(EnvironmentDiedError):
                    await asyncio.wait_for(task, DEADLINE_S)
            with pytest.raises(EnvironmentDiedError):
                await asyncio.wait_for(anext(stream), DEADLINE_S)
            with pytest.raises(EnvironmentDiedError):
                await sh(executor, "true")
            await subject.provider.start(subject.place())
            assert await out(executor, "echo on") == "on"

    async def test_the_environment_is_destroyed_meanwhile(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            running = asyncio.create_task(sh(executor, "sleep 1000"))
            assert await out(executor, "echo on") == "on"
            await subject.provider.destroy(subject.place())
            with pytest.raises(EnvironmentDiedError):
                await asyncio.wait_for(running, DEADLINE_S)

    async def test_a_command_that_ends_its_shell(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            with pytest.raises(ExecError) as caught:
                await sh(executor, "kill -KILL $PPID")
            assert caught.value.code == "channel_lost"
            assert await out(executor, "echo on") == "on"
            with pytest.raises(ExecError) as caught:
                await sh(executor, "kill -KILL $PPID; sleep 1000", timeout_s=0.5)  # which holds its outputs
            assert caught.value.code == "channel_lost"
            assert await out(executor, "echo on") == "on"

    async def test_frozen_and_thawed_between_commands_the_channel_is_still_there(self, subject: Subject) -> None:
        await subject.create()
        async with subject.executor() as executor:
            assert await out(executor, "echo on") == "on"
            await subject.provider.freeze(subject.place())
            await subject.provider.thaw(subject.place())
            assert await out(executor, "echo on") == "on"

    async def test_closing_ends_what_runs(self, subject: Subject) -> None:
        await subject.create()
        number, count = marked()
        async with subject.executor() as executor:
            running = asyncio.create_task(sh(executor, f"touch begun; sleep {number}"))
            await eventually(lambda: begun(executor))
            await executor.aclose()
            assert (await running).exit_code in {128 + 15, 128 + 9}
            with pytest.raises(ExecError) as caught:
                await sh(executor, "true")
            assert caught.value.code == "closed"
        async with subject.executor() as executor:
            assert await none_left(executor, count)


class FilesContract:
    async def fetch(self, subject: Subject, path: str, **options) -> bytes:
        pieces = files.download(subject.provider, subject.place(), path, **options)
        return b"".join([piece async for piece in pieces])

    @pytest.mark.parametrize("content", [b"", b"text\n", os.urandom(3_000_000)], ids=["empty", "text", "large"])
    async def test_there_and_back(self, subject: Subject, content: bytes) -> None:
        await subject.create()
        path = f"{WORKDIR}/it's/deep er/-file"
        assert await files.upload(subject.provider, subject.place(), path, content) == len(content)
        assert await self.fetch(subject, path) == content
        assert (await subject.sh('ls -A "it\'s/deep er"')).out == b"-file\n"

    async def test_in_pieces_and_with_permissions(self, subject: Subject) -> None:
        await subject.create()

        async def pieces() -> AsyncIterator[bytes]:
            for index in range(10):
                yield b"%d\n" % index

        await files.upload(subject.provider, subject.place(), f"{WORKDIR}/run", pieces(), 0o750)
        said = await subject.sh("ls -l run; cat run")
        assert re.match(rb"-rwxr-x---", said.out)
        assert said.out.endswith(b"8\n9\n")

    async def test_an_upload_that_breaks_off_changes_nothing(self, subject: Subject) -> None:
        await subject.create()
        await files.upload(subject.provider, subject.place(), f"{WORKDIR}/file", b"old")

        async def broken() -> AsyncIterator[bytes]:
            yield b"new"
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await files.upload(subject.provider, subject.place(), f"{WORKDIR}/file", broken())
        assert await self.fetch(subject, f"{WORKDIR}/file") == b"old"
        assert (await subject.sh("ls -A")).out == b"file\n"

    async def test_an_upload_that_is_cancelled_leaves_nothing(self, subject: Subject) -> None:
        await subject.create()
        fed = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"new"
            fed.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(files.upload(subject.provider, subject.place(), f"{WORKDIR}/file", endless()))
        await fed.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await subject.sh("ls -A")).out == b""

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            (f"{WORKDIR}/missing", "file_not_found"),
            (WORKDIR, "is_a_directory"),
            (f"{WORKDIR}/pipe", "not_a_file"),
            ("relative", "bad_path"),
            (f"{WORKDIR}/", "bad_path"),
        ],
    )
    async def test_what_cannot_be_fetched(self, subject: Subject, path: str, code: str) -> None:
        await subject.create()
        await subject.sh("mkfifo pipe")
        with pytest.raises(files.FileError) as caught:
            await self.fetch(subject, path)
        assert caught.value.code == code

    async def test_sizes_are_limited(self, subject: Subject) -> None:
        await subject.create()
        with pytest.raises(files.FileError) as caught:
            await files.upload(subject.provider, subject.place(), f"{WORKDIR}/file", b"12345", max_bytes=4)
        assert caught.value.code == "file_too_large"
        await files.upload(subject.provider, subject.place(), f"{WORKDIR}/file", b"12345", max_bytes=5)
        with pytest.raises(files.FileError) as caught:
            await self.fetch(subject, f"{WORKDIR}/file", max_bytes=4)
        assert caught.value.code == "file_too_large"

    async def test_a_directory_is_not_replaced(self, subject: Subject) -> None:
        await subject.create()
        await subject.sh("mkdir d; echo x >file")
        with pytest.raises(files.FileError) as caught:
            await files.upload(subject.provider, subject.place(), f"{WORKDIR}/d", b"x")
        assert caught.value.code == "is_a_directory"
        with pytest.raises(files.FileError) as caught:
            await files.upload(subject.provider, subject.place(), f"{WORKDIR}/file/below", b"x")
        assert caught.value.code == "transfer_failed"

    async def test_where_nothing_runs(self, subject: Subject) -> None:
        await subject.create()
        await subject.kill(subject.place())
        with pytest.raises(EnvironmentDiedError):
            await files.upload(subject.provider, subject.place(), f"{WORKDIR}/file", b"x")
        with pytest.raises(EnvironmentDiedError):
            await self.fetch(subject, f"{WORKDIR}/file")
