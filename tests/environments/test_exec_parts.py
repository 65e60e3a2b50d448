"""The parts of a channel that need no shell: marks, limits of output, words."""

from __future__ import annotations

import asyncio
import itertools
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderagent_core.environments.base import Stream
from thunderagent_core.environments.commands import MAX_ENV_BYTES, ExecError, command_words, export_words, quote
from thunderagent_core.environments.job import Job
from thunderagent_core.environments.markers import Mark, Scanner, new_nonce
from thunderagent_core.environments.output import HeadTail

START, END = "a" * 32, "b" * 32


def scan(pieces: list[bytes]) -> tuple[list[tuple[str, bytes]], bytes]:
    """Return each mark with the output before it, and the output after the last."""
    scanner = Scanner(START, END)
    marks, output = [], b""
    for piece in pieces:
        for found in scanner.feed(piece):
            if isinstance(found, Mark):
                marks.append((found.word, output))
                output = b""
            else:
                output += found
    return marks, output


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


class TestScanner:
    @given(
        content=st.lists(
            st.sampled_from([b"\x1e", b"text\n", b"\x1e" + START.encode(), b"\x1e" + b"b" * 31, b"\0\xff", b"\n"])
        ),
        places=st.lists(st.integers(0, 10_000)),
        word=st.sampled_from(["0", "137", "workdir"]),
    )
    def test_marks_are_found_wherever_reads_end(self, content: list[bytes], places: list[int], word: str) -> None:
        inside = b"".join(content)
        data = b"before" + b"\x1e" + START.encode() + b"\n" + inside + b"\x1e" + END.encode() + f" {word}\n".encode()
        marks, rest = scan(cut(data + b"after", places))
        assert marks == [("", b"before"), (word, inside)]
        assert rest == b"after"

    def test_output_is_not_held_back_without_need(self) -> None:
        scanner = Scanner(START, END)
        list(scanner.feed(b"\x1e" + START.encode() + b"\n"))
        assert list(scanner.feed(b"prompt> ")) == [b"prompt> "]
        assert list(scanner.feed(b"\x1e" + END[:5].encode())) == []
        assert list(scanner.feed(b"no")) == [b"\x1e" + END[:5].encode() + b"no"]

    def test_the_start_mark_counts_once(self) -> None:
        mark = b"\x1e" + START.encode() + b"\n"
        marks, rest = scan([mark + mark])
        assert (marks, rest) == ([("", b"")], mark)

    def test_nonces_differ(self) -> None:
        assert len({new_nonce() for _ in range(100)}) == 100
        assert len(new_nonce()) == 32


class TestHeadTail:
    @given(st.binary(max_size=200), st.integers(0, 100), st.lists(st.integers(0, 10_000)))
    def test_it_keeps_both_ends(self, data: bytes, limit: int, places: list[int]) -> None:
        trim = HeadTail(limit)
        passed = b"".join(trim.feed(piece) for piece in cut(data, places))
        kept = passed + trim.finish()
        head = limit - limit // 2
        if len(data) <= limit:
            assert (kept, trim.dropped) == (data, 0)
        else:
            assert kept == data[:head] + data[len(data) - limit // 2 :]
            assert trim.dropped == len(data) - limit
        assert passed == data[:head]


class TestWords:
    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
    def test_quoting_is_undone_by_a_shell(self, text: str) -> None:
        assert shlex.split(quote(text).decode()) == [text]

    @pytest.mark.parametrize("command", ["", (), ("", "x"), "a\0b", ("a", "\0")])
    def test_a_command_that_cannot_be(self, command: str | tuple[str, ...]) -> None:
        with pytest.raises(ExecError) as caught:
            command_words(command)
        assert caught.value.code == "bad_command"

    @pytest.mark.parametrize(
        "env",
        [{"": "x"}, {"1A": "x"}, {"A-B": "x"}, {"A=B": ""}, {"A;ls": "x"}, {"A": "\0"}, {"A": "x" * MAX_ENV_BYTES}],
    )
    def test_variables_that_cannot_be(self, env: dict[str, str]) -> None:
        with pytest.raises(ExecError) as caught:
            export_words(env)
        assert caught.value.code == "bad_command"

    def test_no_argument_of_a_long_command_is_too_long(self) -> None:
        words = shlex.split(command_words("é'" * 200_000).decode())
        assert max(len(word.encode()) for word in words) < 128 << 10
        assert "".join(words[4:]) == "é'" * 200_000


def mark(nonce: str, word: str = "") -> bytes:
    return b"\x1e" + nonce.encode() + (f" {word}" if word else "").encode() + b"\n"


class TestJob:
    async def test_what_comes_outside_is_not_its_output(self) -> None:
        job = Job(1000)
        job.feed(Stream.STDOUT, b"earlier" + mark(job.start) + b"out" + mark(job.end, "3") + b"later")
        job.feed(Stream.STDERR, b"earlier" + mark(job.start) + b"err")
        assert not job.done.done()
        job.feed(Stream.STDERR, mark(job.end) + b"later")
        job.feed(Stream.STDOUT, mark(job.end, "clean"))
        assert (job.done.done(), job.reusable) == (True, True)
        result = job.result()
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"out", b"err")

    async def test_output_without_a_reader_fills_it_until_somebody_takes(self) -> None:
        job = Job(1000, backlog_bytes=10)
        job.feed(Stream.STDOUT, mark(job.start) + b"x" * 11)
        assert job.full
        waiting = asyncio.create_task(job.taken())
        await asyncio.sleep(0)
        assert not waiting.done()
        output = await job.next_output()
        assert output is not None
        assert output.data == b"x" * 11
        await waiting

    async def test_many_small_pieces_are_joined(self) -> None:
        job = Job(1 << 20)
        job.feed(Stream.STDOUT, mark(job.start))
        for _ in range(1000):
            job.feed(Stream.STDOUT, b"x")
        assert await job.next_output() is not None
        assert not job._pieces

    async def test_one_that_failed_says_so_after_what_came(self) -> None:
        job = Job(1000)
        job.feed(Stream.STDOUT, mark(job.start) + b"out")
        job.fail(ExecError("broken", code="channel_lost"))
        output = await job.next_output()
        assert output is not None
        assert output.data == b"out"
        with pytest.raises(ExecError):
            await job.next_output()
