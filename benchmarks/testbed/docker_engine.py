"""A real Docker engine for tests and benchmarks: found or started, with an image that needs no registry."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from benchmarks.testbed.layout import SetupError
from thunderagent_core.environments.base import LABEL_INSTALLATION
from thunderagent_core.environments.docker.provider import DEFAULT_ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE: Final = "thunderagent-test/busybox:1"
START_S: Final = 100.0
"""A daemon that was killed can take a minute and two tries."""
HINT: Final = "tests/environments/install_docker.sh installs what is missing on Debian and Ubuntu"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """Docker's API without any of the code under test, for what happens behind its back."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(self, method: str, path: str, body: Any = None, *, timeout: float = 60.0) -> tuple[int, Any]:
        """Return the status and content of an answer, text where it is no JSON. Raises OSError where none comes."""
        parts = urlsplit(self.url)
        connection: http.client.HTTPConnection
        if parts.scheme == "unix":
            connection = _UnixConnection(parts.path, timeout)
        else:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        raw = isinstance(body, bytes)
        payload = body if raw or body is None else json.dumps(body).encode()
        kind = "application/x-tar" if raw else "application/json"
        try:
            connection.request(method, path, payload, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, _content(text)

    def answers(self) -> bool:
        """Tell whether a daemon is there."""
        try:
            return self.request("GET", "/_ping", timeout=5.0)[0] == 200
        except OSError:
            return False

    def inspect(self, name: str) -> dict[str, Any] | None:
        """Return what the daemon says of a container; None where there is none."""
        status, content = self.request("GET", f"/containers/{name}/json")
        return content if status == 200 else None

    def leftovers(self, installation: str) -> list[tuple[str, str]]:
        """Return the kind and id of everything that carries an installation's label, in an order to remove it."""
        wanted = quote(json.dumps({"label": [f"{LABEL_INSTALLATION}={installation}"]}))
        volumes = self.request("GET", f"/volumes?filters={wanted}")[1]["Volumes"] or []
        found = [
            ("containers", item["Id"]) for item in self.request("GET", f"/containers/json?all=1&filters={wanted}")[1]
        ]
        found += [("networks", item["Id"]) for item in self.request("GET", f"/networks?filters={wanted}")[1]]
        found += [("volumes", item["Name"]) for item in volumes]
        found += [("images", item["Id"]) for item in self.request("GET", f"/images/json?all=1&filters={wanted}")[1]]
        return found

    def purge(self, installation: str) -> None:
        """Remove whatever is left of an installation, so that who fails does not harm others."""
        for kind, name in self.leftovers(installation):
            self.request("DELETE", f"/{kind}/{name}?force=1&v=1")


@contextmanager
def docker_engine(folder: Path) -> Iterator[str]:
    """Yield the address of a daemon: one that runs, else one that is started and stopped at the end.

    Raises SetupError where none runs and none can be started.
    """
    url = os.environ.get("DOCKER_HOST") or DEFAULT_ENDPOINT
    engine = Engine(url)
    if engine.answers():
        yield url
        return
    if "DOCKER_HOST" in os.environ:
        raise SetupError(f"no Docker daemon answers at DOCKER_HOST={url}")
    process = _start_dockerd(engine, folder / "dockerd.log")
    try:
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def import_image(engine: Engine) -> str:
    """Make the image where it is missing, and return its name. Raises SetupError where it cannot be made."""
    if engine.request("GET", f"/images/{IMAGE}/json")[0] != 200:
        repository, _, tag = IMAGE.partition(":")
        path = f"/images/create?fromSrc=-&repo={repository}&tag={tag}"
        status, content = engine.request("POST", path, root_file_system())
        if status != 200:
            raise SetupError(f"the image could not be made: {content}")
    return IMAGE


def root_file_system() -> bytes:
    """Return a tar archive of a root file system with busybox and nothing else."""
    busybox = _static_busybox()
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("bin", "etc", "root", "usr", "usr/bin"):
            _add(tar, folder, tarfile.DIRTYPE)
        _add(tar, "tmp", tarfile.DIRTYPE, mode=0o1777)
        _add(tar, "bin/busybox", data=busybox.read_bytes())
        for applet in set(listed) - {"busybox"}:
            _add(tar, f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        _add(tar, "etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644)
    return out.getvalue()


def _static_busybox() -> Path:
    for place in ("/usr/bin/busybox", "/bin/busybox", shutil.which("busybox") or ""):
        if place and Path(place).is_file() and b"/ld-" not in Path(place).read_bytes()[:4096]:
            return Path(place)
    raise SetupError(f"the image needs a static busybox; {HINT}")


def _add(
    tar: tarfile.TarFile,
    name: str,
    kind: bytes = tarfile.REGTYPE,
    *,
    data: bytes = b"",
    mode: int = 0o755,
    link: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.linkname = kind, mode, len(data), link
    tar.addfile(member, io.BytesIO(data))


def _start_dockerd(engine: Engine, log: Path) -> subprocess.Popen[bytes]:
    program = shutil.which("dockerd")
    if program is None or os.geteuid() != 0:
        raise SetupError(f"no Docker daemon answers, and none can be started: it needs dockerd and root; {HINT}")
    deadline = time.monotonic() + START_S
    while True:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [program, "--storage-driver=overlay2"], stdout=output, stderr=output, start_new_session=True
            )
        while process.poll() is None and time.monotonic() < deadline:
            if engine.answers():
                return process
            time.sleep(0.2)
        if time.monotonic() >= deadline:
            process.kill()
            process.wait()
            raise SetupError(f"dockerd did not answer within {START_S:g} s:\n{log.read_text()[-3000:]}")
        time.sleep(1.0)


def _content(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
