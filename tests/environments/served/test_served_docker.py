"""A real server with real Docker: the same life as with bubblewrap, and what only Docker has."""

from __future__ import annotations

import httpx
import pytest
from docker_testbed import Engine
from environment_server import Serving, check_error, eventually

pytestmark = pytest.mark.real_docker

PATH = "/programs/p/environments/shell"


@pytest.fixture
async def docker(place: Serving, docker_url, docker_image):
    """A server on that daemon; nothing of its installation may remain when the test is over."""
    served = await place.start(environments="docker", docker_hosts=(docker_url,))
    engine, installation = Engine(docker_url), served.installation
    yield served, engine, {"name": "shell", "image": docker_image}
    try:
        for server, _ in place.servers:
            for program in (await server.get("/programs"))["programs"]:
                await server.release(program["program_id"])

        async def nothing() -> bool:
            return engine.leftovers(installation) == []

        await eventually(nothing)
    finally:
        engine.purge(installation)


async def test_from_the_first_request_to_the_end(docker):
    served, _, spec = docker
    assert (await served.chat("p", environments=[spec])).status_code == 200
    assert await served.sh(PATH, "echo $0; pwd") == "/bin/sh\n/workspace\n"
    data = bytes(range(256)) * 500
    assert (await served.client.put(f"{PATH}/files?path=/workspace/a&mode=755", content=data)).status_code == 200
    assert (await served.client.get(f"{PATH}/files?path=/workspace/a")).content == data
    result = await served.post(f"{PATH}/exec", command="echo no >&2; exit 7")
    assert (result["exit_code"], result["stderr"]) == (7, "no\n")
    assert (await served.post(f"{PATH}/exec", command="sleep 1000", timeout_s=0.5))["timed_out"]
    response = await served.client.get(f"{PATH}/files?path=/none")
    check_error(response, 404, "path", code="file_not_found")
    assert (await served.release("p")).json()["released"]
    assert not served.manager.knows("p")


async def test_an_image_that_is_not_there(docker):
    served, _, spec = docker
    await served.register("p", {**spec, "image": "localhost:1/no/such:image"})
    response = await served.client.get(f"{PATH}?wait_s=60")
    check_error(response, 424, None, code="environment_failed")


async def test_one_that_is_removed_is_lost_and_one_that_is_killed_is_not(docker):
    served, engine, spec = docker
    await served.register("p", spec, {**spec, "name": "other"})
    other = "/programs/p/environments/other"
    for path in (PATH, other):
        await served.sh(path, "echo kept >file")
    names = {view["name"]: served.place(view).handle for view in (await served.get("/environments"))["environments"]}
    engine.request("POST", f"/containers/{names['other']}/kill")
    engine.request("DELETE", f"/containers/{names['shell']}?force=true")

    async def lost() -> bool:
        response = await served.client.post(f"{PATH}/exec", json={"command": "ls"})
        assert response.status_code == 410, response.text  # never a blank one
        return bool(response.json()["error"]["code"] == "environment_lost")

    async def back() -> bool:
        response = await served.client.post(f"{other}/exec", json={"command": "cat file"})
        if response.status_code == 410:
            check_error(response, 410, None, code="environment_died")
            return False
        return bool(response.json()["stdout"] == "kept\n")

    await eventually(lost)
    await eventually(back)


async def test_ports_can_be_reached(docker):
    served, _, spec = docker
    serve = "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 8000 -h /www"
    await served.register("p", {**spec, "ports": [8000], "command": ["/bin/sh", "-c", serve]})
    view = await served.get(f"{PATH}?wait_s=60")
    assert view["host"] == "127.0.0.1"

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{view['ports']['8000']}/index.html")
        except httpx.TransportError:
            return False
        return answer.text == "hello\n"

    await eventually(answers)


async def test_put_aside_and_under_the_next_server(place, docker, docker_url):
    served, engine, spec = docker
    await served.register("p", spec)
    await served.sh(PATH, "echo kept >file")
    assert (await served.post(f"{PATH}/snapshot"))["state"] == "snapshotted"
    handle = served.place(await served.view("p", "shell")).handle

    async def away() -> bool:
        return engine.inspect(handle) is None

    await eventually(away)
    served_installation = served.installation
    await place.stop(served)
    again = await place.start(served.engine, environments="docker", docker_hosts=(docker_url,))
    assert again.installation == served_installation
    assert await again.sh(PATH, "cat file") == "kept\n"
