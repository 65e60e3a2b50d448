"""Each way of not getting an answer is an EngineError with a sentence that says which."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import httpx
import pytest
from engine_helpers import URL, Answers

from thunderagent_core.engines.base import EngineError
from thunderagent_core.engines.http import EngineHttp, NotFoundError


def asking(answers: Answers, **settings) -> EngineHttp:
    return EngineHttp(URL, **{"timeout_s": 2.0, "transport": answers, **settings})


async def test_the_key_is_sent():
    answers = Answers(page=b"text")
    assert await asking(answers, api_key="secret").text("/page") == "text"
    assert answers.asked[0].headers["authorization"] == "Bearer secret"


async def test_no_key_no_header():
    answers = Answers(page=b"")
    await asking(answers).text("/page")
    assert "authorization" not in answers.asked[0].headers


async def test_a_slash_at_the_end_of_the_address():
    http = EngineHttp(URL + "/", timeout_s=2.0, transport=Answers(page=b"x"))
    assert http.url == URL
    assert await http.text("/page") == "x"


async def test_another_status_shows_the_answer():
    with pytest.raises(EngineError, match=r"http://engine.test:8000/page answered 503: no such page"):
        await asking(Answers(page=503)).text("/page")


async def test_a_missing_page_is_told_apart():
    with pytest.raises(NotFoundError):
        await asking(Answers()).text("/page")


@pytest.mark.parametrize("page", [b"<html>", b"[1]", b"", b'"text"'])
async def test_not_a_json_object(page):
    with pytest.raises(EngineError, match="did not answer with a JSON object"):
        await asking(Answers(page=page)).json("/page")


@pytest.mark.parametrize(
    "failure", [httpx.ReadError("connection reset"), httpx.RemoteProtocolError("server disconnected")]
)
async def test_a_broken_connection_is_not_a_refusal(failure):
    with pytest.raises(EngineError, match=r"is unreachable: (connection reset|server disconnected)") as caught:
        await asking(Answers(page=failure)).text("/page")
    assert not caught.value.refused


async def test_nobody_listens(closed_port):
    http = EngineHttp(f"http://127.0.0.1:{closed_port}", timeout_s=60.0)
    with pytest.raises(EngineError, match="is unreachable: connection refused") as caught:
        await http.text("/metrics")
    assert caught.value.refused
    await http.aclose()


async def test_no_such_host(monkeypatch):
    def unknown(*_arguments, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    http = EngineHttp("http://no-such-host.invalid", timeout_s=60.0)
    with pytest.raises(EngineError, match=r"is unreachable: .*Name or service not known") as caught:
        await http.text("/metrics")
    assert not caught.value.refused
    await http.aclose()


async def test_an_address_that_is_none():
    http = EngineHttp("http://127.0.0.1:notaport", timeout_s=2.0)
    with pytest.raises(EngineError, match="is unreachable: Invalid port"):
        await http.text("/metrics")
    await http.aclose()


async def test_a_silent_engine_is_given_up():
    """The whole question is bounded: the engine here sends a byte now and then, so no single read is late."""

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    http = EngineHttp(f"http://127.0.0.1:{port}", timeout_s=2.0)
    with pytest.raises(EngineError, match=r"did not answer within 2 s"):
        await http.text("/metrics")
    await http.aclose()
    await ended.wait()
    server.close()
    await server.wait_closed()
