"""``dockerd`` is killed and started again, while environments rest, are made, are used and are taken back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from docker_testbed import import_image
from kills import Forge, Refused, Server, Trial, until
from private_daemon import START_S, PrivateDaemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.real_docker

UNREACHABLE = {"environment_unreachable", "environment_not_ready", "provider_unavailable"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateDaemon]:
    with PrivateDaemon() as daemon:
        import_image(daemon.engine)
        yield daemon


@pytest.fixture
def server(daemon: PrivateDaemon, tmp_path: Path) -> Iterator[Server]:
    """A server on that daemon, of which nothing may be left in the end."""

    def remains(_: Path, installation: str) -> list[str]:
        return [f"{kind} {name}" for kind, name in daemon.engine.leftovers(installation)]

    arguments = ["--environments", "docker", "--docker-host", daemon.url, "--environment-freeze-after-s", "0"]
    arguments += ["--environment-disk-floor-bytes", "0", "--environment-reconcile-interval-s", "1"]
    with Forge() as forge:
        server = Server(forge, tmp_path, arguments, None, 0.0)
        try:
            yield server
            if not daemon.engine.answers():
                daemon.start()
            for program in server.programs():
                server.call("DELETE", f"/programs/{program}")
            until(lambda: not server.environments(), "everything is taken back", START_S)
        finally:
            server.stop()
        trial = Trial(forge=forge, folder=tmp_path, specs={}, arguments=arguments, remains=remains)
        trial.assert_nothing_left(tmp_path / "state")


def register(server: Server, program: str, **spec: Any) -> None:
    image = "thunderagent-test/busybox:1"
    whole = {"name": "shell", "image": image, "setup": ["echo made > made"], "memory_bytes": 64 << 20, **spec}
    server.call("POST", "/programs", {"program_id": program, "environments": [whole]})


def ready(server: Server, program: str) -> None:
    server.call("GET", f"/programs/{program}/environments/shell?wait_s=100")


def patiently(server: Server, program: str, command: str) -> str:
    """Run a command, again while the daemon is away; other errors are not forgiven."""

    def attempt() -> tuple[str] | None:
        try:
            return (server.exec(program, "shell", command),)
        except Refused as refusal:
            if refusal.status != 503:
                raise
            return None

    return until(attempt, f"{command} in {program}", START_S)[0]


def refused(server: Server, program: str, content: dict[str, Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        server.call("POST", f"/programs/{program}/environments/shell/exec", content)
    return caught.value


def states(server: Server) -> dict[str, str]:
    return {one["program_id"]: one["state"] for one in server.environments()}


def test_a_daemon_that_is_away_frees_nothing_and_loses_nothing(
    daemon: PrivateDaemon, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for program in ("used", "spare", "aside", "over"):
        register(server, program)
        ready(server, program)
    for program in ("used", "aside", "over"):
        server.exec(program, "shell", f"echo {program} > file")
    server.call("POST", "/programs/aside/environments/shell/snapshot")
    before = states(server)
    del before["over"]
    daemon.kill()
    for program in ("used", "aside"):
        refusal = refused(server, program, {"command": "cat file", "wait_s": 1})
        assert (refusal.status, refusal.code in UNREACHABLE) == (503, True), refusal
    register(server, "late")
    server.call("DELETE", "/programs/over")
    away = states(server)
    assert away.pop("over") == "reclaiming"  # what is over stays on the books until it is certain that it is gone
    assert away.pop("late") in {"requested", "preparing"}
    assert away == before
    took_s = daemon.start()
    for program, content in (("used", "used\n"), ("aside", "aside\n")):
        assert patiently(server, program, "cat file") == content
    for program in ("spare", "late"):
        assert patiently(server, program, "cat made") == "made\n"
    until(lambda: "over" not in states(server), "what is over is taken back", START_S)
    with capsys.disabled():
        print(f"\ndockerd: killed, back after {took_s:.0f} s; nothing freed meanwhile, nothing lost or leaked")


def creation(server: Server) -> None:
    ready(server, "new")


def set_up(server: Server) -> None:
    ready(server, "slow")


def command(server: Server) -> None:
    server.exec("used", "shell", "sleep 3")


def snapshot(server: Server) -> None:
    server.call("POST", "/programs/full/environments/shell/snapshot")


def reclamation(server: Server) -> None:
    server.call("DELETE", "/programs/over")


IN_FLIGHT: tuple[tuple[Callable[[Server], None], str], ...] = (
    (creation, "before create"),
    (set_up, "before command"),
    (command, "before command"),
    (snapshot, "before snapshot"),
    (reclamation, "before destroy"),
)


def reached(server: Server, point: str) -> int:
    return sum(one.startswith(f"{point} #") for one in server.points())


@pytest.mark.timeout(600)
def test_a_daemon_dies_while_something_is_under_way(
    daemon: PrivateDaemon, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for program in ("used", "full", "over"):
        register(server, program)
        ready(server, program)
        server.exec(program, "shell", f"echo {program} > file; head -c 20000000 /dev/urandom > big")
    register(server, "new")
    register(server, "slow", setup=["sleep 2", "echo made > made"])
    began = time.monotonic()
    for act, point in IN_FLIGHT:
        kill_amid(daemon, server, act, point)
        for program in ("used", "full"):
            assert patiently(server, program, "cat file") == f"{program}\n"
    for program in ("new", "slow"):
        assert patiently(server, program, "cat made") == "made\n"
    until(lambda: "over" not in states(server), "what is over is taken back", START_S)
    with capsys.disabled():
        took_s = time.monotonic() - began
        print(f"\ndockerd: killed amid {len(IN_FLIGHT)} operations in {took_s:.0f} s; nothing leaked, nothing lost")


def kill_amid(daemon: PrivateDaemon, server: Server, act: Callable[[Server], None], point: str) -> None:
    """Kill the daemon as soon as an operation has begun, and start it again."""
    count = reached(server, point)
    done = threading.Event()

    def work() -> Refused | None:
        try:
            act(server)
        except Refused as refusal:
            return refusal
        finally:
            done.set()
        return None

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        until(lambda: done.is_set() or reached(server, point) > count, f"{act.__name__} is under way")
        daemon.kill()
        daemon.start()
        refusal = working.result()
    assert refusal is None or refusal.status == 503, (act.__name__, refusal)
