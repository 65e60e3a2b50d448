"""The file of ``--trace``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from server_tools import audit, soon

from thunderagent_core.config import ServerConfig
from thunderagent_core.server.serve import ServeError, running
from thunderagent_core.server.trace_file import TraceFile


async def test_a_trace_starts_with_what_is_needed_to_replay_it(engine, serve):
    run = await serve(engine, policy="cap", cap_programs=2)
    await run.chat("p")
    await run.server.stop(0.0)
    header = json.loads(run.trace.read_text().splitlines()[0])
    assert (header["policy"], header["settings"]["cap_programs"]) == ("cap", 2)
    audit(run.trace)


async def test_lines_are_written_soon_and_whole(engine, serve):
    run = await serve(engine)
    await run.chat("p")
    await soon(lambda: "RequestEnded" in run.trace.read_text())
    assert run.trace.read_text().endswith("}\n")


async def test_many_lines_are_written_at_once(tmp_path):
    trace = TraceFile(tmp_path / "trace")
    for number in range(2500):
        trace.write(str(number))
    assert len((tmp_path / "trace").read_text().splitlines()) == 2000
    trace.close()
    assert (tmp_path / "trace").read_text().splitlines() == [str(number) for number in range(2500)]
    trace.write("after the end")
    trace.flush()
    trace.close()
    assert (tmp_path / "trace").read_text().endswith("2499\n")


async def test_a_full_disk_ends_the_trace_and_not_the_server(caplog):
    trace = TraceFile(Path("/dev/full"))
    for _ in range(3):
        trace.write("a line")
        trace.flush()
    trace.close()
    assert caplog.text.count("ends in the middle: No space left on device") == 1


async def test_a_trace_that_cannot_be_written_stops_the_start(engine, tmp_path):
    file = tmp_path / "trace"
    file.touch()
    config = ServerConfig(backends=(engine.url,), port=0, trace=file)
    file.unlink()
    file.mkdir()
    with pytest.raises(ServeError, match=r"cannot write the trace .*Is a directory"):
        async with running(config):
            pass
