"""Properties of the reader of streams: whatever the pieces, the same bytes, the same usage."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import recorded

from thunderagent_core.engines.sse import StreamTap
from thunderagent_core.engines.usage import Usage, read_usage

STREAMS = {
    "chat_stream.sse": Usage(),
    "chat_stream_usage.sse": Usage(42, 8, 32),
    "chat_stream_continuous_usage.sse": Usage(42, 8, 32),
    "chat_tool_call_stream.sse": Usage(42, 46, 32),
    "completion_stream.sse": Usage(),
    "completion_stream_usage.sse": Usage(5, 4, 0),
    "responses_stream.sse": Usage(42, 8, 32),
    "messages_stream.sse": Usage(42, 8, 32),
}


def run(pieces: list[bytes], *, hide: bool) -> tuple[bytes, StreamTap]:
    tap = StreamTap(hide_usage=hide)
    out = b"".join(tap.feed(piece) for piece in pieces if piece)
    return out + tap.flush(), tap


def crlf(payload: bytes) -> bytes:
    return payload.replace(b"\n", b"\r\n")


@pytest.mark.parametrize("ends", [bytes, crlf])
@pytest.mark.parametrize("name", STREAMS)
def test_cut_in_two_at_every_byte(name, ends):
    payload = ends(recorded(name))
    events = sum(line.startswith(b"data:") for line in payload.splitlines())
    for cut in range(len(payload)):
        out, tap = run([payload[:cut], payload[cut:]], hide=False)
        assert out == payload
        assert tap.usage == STREAMS[name]
        assert tap.events == events


@pytest.mark.parametrize("ends", [bytes, crlf])
@pytest.mark.parametrize("name", ["chat_stream_usage.sse", "completion_stream_usage.sse"])
def test_hidden_usage_cut_in_two_at_every_byte(name, ends):
    payload = ends(recorded(name))
    blank = ends(b"\n\n")
    expected = blank.join(event for event in payload.split(blank) if b'"choices":[]' not in event)
    assert len(expected) < len(payload)
    for cut in range(len(payload)):
        out, tap = run([payload[:cut], payload[cut:]], hide=True)
        assert out == expected
        assert tap.usage == STREAMS[name]


@given(data=st.data(), name=st.sampled_from(sorted(STREAMS)), hide=st.booleans())
def test_cut_anywhere(data, name, hide):
    payload = recorded(name)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=40)))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    whole, _ = run([payload], hide=hide)
    out, tap = run(pieces, hide=hide)
    assert out == whole
    assert tap.usage == STREAMS[name]


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_nothing_is_added_or_lost_whatever_comes(pieces):
    out, _ = run(pieces, hide=False)
    assert out == b"".join(pieces)


@given(
    st.lists(st.sampled_from([b"data: ", b'{"usage":{}', b'"choices":[]}', b"\n", b"\r\n", b"x", b"\xff"]), max_size=30)
)
def test_hiding_drops_no_more_than_usage(parts):
    out, _ = run(parts, hide=True)
    assert out == b"".join(parts), "none of these holds a usage chunk: usage is empty"


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"error": {"message": "dead", "code": 500}}, "dead"),
        ({"type": "error", "error": {"type": "api_error", "message": "dead"}}, "dead"),
        ({"type": "error", "code": "server_error", "message": "dead"}, "dead"),
        ({"type": "response.failed", "response": {"error": {"message": "dead"}}}, "dead"),
        ({"error": None, "choices": []}, None),
        ({"response": {"error": None}}, None),
        ({"choices": [{"delta": {"content": '{"error": {"message": "only text"}}'}}]}, None),
        ({"choices": [{"finish_reason": "error"}]}, None),
        ({"error": "a word"}, None),
    ],
)
def test_errors_in_a_stream_are_seen(event, message):
    payload = b"event: x\ndata: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n"
    for cut in range(len(payload)):
        out, tap = run([payload[:cut], payload[cut:]], hide=True)
        assert out == payload
        assert (None if tap.error is None else tap.error["message"]) == message


def test_the_error_of_a_vllm_that_is_being_stopped():
    out, tap = run([recorded("chat_stream_engine_stopped.sse")], hide=False)
    assert out == recorded("chat_stream_engine_stopped.sse")
    assert tap.error is not None
    assert tap.error["code"] == 500


def test_whole_events_are_passed_on_at_once():
    tap = StreamTap(hide_usage=True)
    assert tap.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert tap.feed(b"\n\n") == b"data: 2\n\n"


def test_an_endless_event_is_passed_on_in_pieces():
    tap = StreamTap(hide_usage=True)
    piece = b"x" * 300_000
    out = b"".join(tap.feed(piece) for _ in range(10))
    assert len(out) >= 1024 * 1024, "it is not held back for ever"
    assert out + tap.flush() == piece * 10


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("chat.json", Usage(42, 8, 0)),
        ("chat_cached.json", Usage(42, 8, 32)),
        ("messages.json", Usage(42, 8, 32)),
        ("responses.json", Usage(42, 8, 32)),
        ("error_unknown_model.json", Usage()),
    ],
)
def test_usage_of_whole_answers(name, usage):
    assert read_usage(recorded(name)) == usage


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"usage": 5}',
        b'{"usage": {"prompt_tokens": "5"}}',
        b'{"usage": {"prompt_tokens": -1}}',
    ],
)
def test_usage_that_makes_no_sense_is_no_usage(body):
    assert read_usage(body) == Usage()
