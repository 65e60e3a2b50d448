"""Names that hold commands for a terminal are shown, not obeyed."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cli_tools import cli

from thunderagent_core.cli.escaping import escaped

EVIL = "\x1b[m\x9b\u202e"
SHOWN = r"\x1b[m\x9b\u202e"
PROGRAM = {
    "program_id": EVIL, "parent_id": EVIL, "group": EVIL, "status": EVIL, "phase": EVIL, "backend": EVIL, "tool": EVIL,
    "history": [{"s_ago": 1.0, "status": EVIL, "reason": EVIL}],
}  # fmt: skip
BACKEND = {"id": EVIL, "url": EVIL, "kind": EVIL, "healthy": False, "reason": EVIL, "models": [EVIL]}
DECISION = {"now": 1.0, "type": EVIL, "program_id": EVIL, "request_id": EVIL, "backend_id": EVIL, "reason": EVIL}
EVENTS = f"event: x\ndata: {json.dumps(DECISION)}\n\ndata: {json.dumps(DECISION, ensure_ascii=False)}\n\n"


ANSWERS = {
    "/programs": json.dumps({"programs": [PROGRAM], "waiting": 0}),
    "/programs/p": json.dumps(PROGRAM),
    "/backends": json.dumps({"backends": [BACKEND]}),
    "/events": EVENTS,
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200 if self.path in ANSWERS else 404, ANSWERS.get(self.path, self.error()))

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(201, json.dumps(BACKEND)) if self.path == "/backends" else self.answer(404, self.error())

    def error(self):
        return json.dumps({"error": {"message": EVIL, "code": EVIL}})

    def answer(self, status, body):
        content = body.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.send_header("content-type", "text/event-stream" if self.path == "/events" else "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextmanager
def evil_server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def evil():
    with evil_server() as url:
        yield url


def harmless(text):
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize(
    ("arguments", "times"),
    [
        (["programs"], 5),
        (["programs", "p"], 9),
        (["programs", "nobody"], 2),
        (["backends"], 5),
        (["backends", "add", "http://x"], 1),
        (["events"], 10),
    ],
)
def test_text(evil, arguments, times):
    result = cli(*arguments, "--server", evil)
    shown = result.stdout + result.stderr
    assert harmless(shown)
    assert shown.count(SHOWN) == times


def test_names_of_the_user_himself(evil):
    assert cli("release", "x\x1b[31m", "--server", evil).stdout == "x\\x1b[31m: unknown\n"


@pytest.mark.parametrize("arguments", [["programs"], ["programs", "p"], ["backends"], ["events"]])
def test_json_means_the_same(evil, arguments):
    result = cli(*arguments, "--json", "--server", evil)
    assert harmless(result.stdout)
    first = json.loads(result.stdout.splitlines()[0])
    view = {"programs": lambda: first["programs"][0], "backends": lambda: first["backends"][0]}
    content = first if len(arguments) > 1 or arguments == ["events"] else view[arguments[0]]()
    assert EVIL in content.values()


def test_what_can_be_printed_stays_as_it_is():
    assert escaped("Grüße, 世界 — ok") == "Grüße, 世界 — ok"
    assert escaped("a\nb\tc\r\x07\x7f\u200b\ud800") == r"a\nb\tc\r\x07\x7f\u200b\ud800"
