"""Declaring tool environments: by three ways, the same again, wrongly, and without leaving anything behind."""

from __future__ import annotations

import pytest
from environment_server import CHAT, check_error, eventually, messages
from scripted_engine import JSON, whole

SHELL = {"name": "shell"}


async def test_by_registration(served):
    response = await served.register("p", SHELL, {"name": "other", "memory_bytes": 64 << 20})
    assert response.status_code == 201
    shown = {one["name"]: one["state"] for one in response.json()["environments"]}
    assert set(shown) == {"shell", "other"}
    assert {one["name"] for one in (await served.get("/programs/p"))["environments"]} == {"shell", "other"}
    view = await served.view("p", "other")
    assert view["spec"] == {"name": "other", "provider": "process", "memory_bytes": 64 << 20}


@pytest.mark.parametrize("holder", ["top", "extra_body"])
async def test_by_the_first_request_and_the_engine_sees_none_of_it(served, holder):
    fields = {"environments": [SHELL]} if holder == "top" else {"extra_body": {"environments": [SHELL]}}
    assert (await served.chat("p", **fields)).status_code == 200
    [seen] = served.engine.bodies()
    assert seen == messages()
    await served.until("p", "shell", "ready")  # its program is active: it is made at once


async def test_what_else_is_in_extra_body_stays(served):
    assert (await served.chat("p", extra_body={"environments": [SHELL], "top_k": 3})).status_code == 200
    [seen] = served.engine.bodies()
    assert seen == messages(extra_body={"top_k": 3})


async def test_by_its_own_route(served):
    assert (await served.register("p")).status_code == 201
    response = await served.client.post("/programs/p/environments", json=SHELL)
    assert response.status_code == 201
    assert response.json()["name"] == "shell"
    assert response.json()["program_id"] == "p"
    assert await served.sh("/programs/p/environments/shell", "pwd") == "/workspace\n"
    again = await served.client.post("/programs/p/environments", json=SHELL)
    assert again.status_code == 200
    assert again.json()["id"] == response.json()["id"]


async def test_its_own_route_needs_a_live_program(served):
    response = await served.client.post("/programs/p/environments", json=SHELL)
    check_error(response, 404, "program_id", code="program_not_found")


async def test_the_same_again_is_the_same_environment(served):
    assert (await served.register("p", SHELL)).status_code == 201
    before = await served.view("p", "shell")
    assert (await served.register("p", SHELL)).status_code == 200
    assert (await served.register("p", {**SHELL, "provider": "process"})).status_code == 200
    assert (await served.chat("p", environments=[SHELL])).status_code == 200
    assert (await served.view("p", "shell"))["id"] == before["id"]
    assert len((await served.get("/environments"))["environments"]) == 1


async def test_differently_is_a_conflict(served):
    assert (await served.register("p", SHELL)).status_code == 201
    other = {**SHELL, "pids": 99}
    check_error(await served.register("p", other), 409, "environments", code="program_conflict")
    check_error(await served.chat("p", environments=[other]), 409, "environments", code="program_conflict")
    response = await served.client.post("/programs/p/environments", json=other)
    check_error(response, 409, "environments", code="program_conflict")
    assert "pids" not in (await served.view("p", "shell"))["spec"]
    assert served.engine.seen == []


async def test_a_registration_that_conflicts_declares_nothing(served):
    assert (await served.register("p", group="a")).status_code == 201
    check_error(await served.register("p", SHELL, group="b"), 409, "program_id", code="program_conflict")
    assert (await served.get("/environments"))["environments"] == []


BAD = [
    ([{"nam": "shell"}], 422, "environments[0].nam", "unknown_field", "`name`"),
    ([{**SHELL, "memory": 1}], 422, "environments[0].memory", "unknown_field", "`memory_bytes`"),
    ([{**SHELL, "cpus": "two"}], 400, "environments[0].cpus", "invalid_value", "float"),
    ([{**SHELL, "ports": [0]}], 400, "environments[0].ports", "invalid_value", "65535"),
    ([{**SHELL, "mounts": [{"source": "/x", "target": 7}]}], 400, "environments[0].mounts[0].target", "invalid_value", "str"),
    ([{**SHELL, "name": "No"}], 400, "environments[0].name", "invalid_value", "must match"),
    ([{}], 400, "environments[0]", "invalid_value", "name"),
    ([SHELL, SHELL], 400, "environments[1].name", "invalid_value", "twice"),
    ("shell", 400, "environments", "invalid_value", "list"),
    ([{"name": f"e{n}"} for n in range(17)], 400, "environments", "invalid_value", "16"),
    ([{**SHELL, "provider": "docker"}], 400, "provider", "provider_not_found", "docker"),
    ([{**SHELL, "provider": "scripted"}], 400, "provider", "provider_not_found", "scripted"),
    ([{**SHELL, "mounts": [{"source": "/etc", "target": "/x"}]}], 400, "environments[0].mounts[0].source", "invalid_value", "mount-root"),
    ([{**SHELL, "image": "/"}], 400, "environments[0].image", "invalid_value", "mount-root"),
]  # fmt: skip


@pytest.mark.parametrize(("specs", "status", "param", "code", "says"), BAD)
async def test_what_is_wrong_changes_nothing(served, specs, status, param, code, says):
    by_request = await served.chat("p", environments=specs)
    answers = [
        by_request,
        await served.client.post(CHAT, json=messages(program_id="p", extra_body={"environments": specs})),
    ]
    if isinstance(specs, list):
        answers.append(await served.client.post("/programs", json={"program_id": "p", "environments": specs}))
    for response in answers:
        check_error(response, status, param, code=code)
        assert says in response.json()["error"]["message"]
    assert (await served.get("/programs"))["programs"] == []
    assert (await served.get("/environments"))["environments"] == []
    assert served.engine.seen == []


@pytest.mark.parametrize(
    ("spec", "status", "param"), [({"nam": "x"}, 422, "nam"), ({**SHELL, "cpus": "two"}, 400, "cpus")]
)
async def test_its_own_route_names_the_field_as_it_was_sent(served, spec, status, param):
    await served.register("p")
    check_error(await served.client.post("/programs/p/environments", json=spec), status, param)


async def test_they_belong_to_a_program(served):
    response = await served.chat(None, environments=[SHELL])
    check_error(response, 400, "program_id", code="missing_required_parameter")
    assert served.engine.seen == []


async def test_none_are_none(served):
    assert (await served.chat(None, environments=[])).status_code == 200
    assert (await served.register("p")).status_code == 201
    assert (await served.get("/programs/p"))["environments"] == []


class TestOff:
    async def test_nothing_is_declared_and_no_program_created(self, place):
        served = await place.start(environments="off")
        for response in (
            await served.register("p", SHELL),
            await served.chat("p", environments=[SHELL]),
            await served.client.post("/programs/p/environments", json=SHELL),
            await served.client.get("/environments"),
            await served.client.get("/programs/p/environments"),
            await served.client.post("/programs/p/environments/shell/exec", json={"command": "id"}),
            await served.client.post("/environments/reap", json={}),
        ):
            check_error(response, 400, "environments", code="environments_disabled")
        assert (await served.get("/programs"))["programs"] == []
        assert served.engine.seen == []
        assert not place.state.exists()


class TestRefused:
    async def test_a_prompt_that_fits_nowhere(self, served):
        response = await served.chat("p", "x" * 400_000, environments=[SHELL])
        check_error(response, 400, "messages", code="context_too_large")
        await self.nothing(served)

    @pytest.mark.parametrize("status", [400, 404, 422])
    async def test_by_the_engine(self, served, status):
        served.engine.reply = whole(status, b'{"error": {"message": "no"}}', JSON)
        assert (await served.chat("p", environments=[SHELL])).status_code == status
        await self.nothing(served)

    async def test_a_registered_program_keeps_what_it_has(self, served):
        assert (await served.register("p")).status_code == 201
        served.engine.reply = whole(400, b"{}", JSON)
        assert (await served.chat("p", environments=[SHELL])).status_code == 400
        assert await served.sh("/programs/p/environments/shell", "echo here") == "here\n"

    async def nothing(self, served):
        async def gone() -> bool:
            return (await served.client.get("/programs/p")).status_code == 404

        await eventually(gone)
        await served.nothing_left()
        assert not served.manager.knows("p")
        served.engine.reply = None
        assert (await served.register("p", {**SHELL, "pids": 99})).status_code == 201
