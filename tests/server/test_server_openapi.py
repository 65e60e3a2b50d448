"""The OpenAPI document describes every route, and nothing else, as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import thunderagent_core.server
from thunderagent_core.environments.exec import ExecResult
from thunderagent_core.environments.manager.views import EnvironmentView, ReapItem
from thunderagent_core.environments.spec import MAX_ENVIRONMENTS, NAME_PATTERN, EnvironmentSpec
from thunderagent_core.environments.states import State
from thunderagent_core.server.app import _table
from thunderagent_core.server.bodies import BackendBody, EventBody, RegisterBody, ReleaseBody
from thunderagent_core.server.environment_bodies import ExecBody, ReapBody
from thunderagent_core.server.environment_door import EnvironmentDoor
from thunderagent_core.server.environment_guard import SpecGuard
from thunderagent_core.server.environment_routes import EnvironmentRoutes
from thunderagent_core.server.environment_views import ending_view, environment_view, reap_view, result_view
from thunderagent_core.server.routes import Routes
from thunderagent_core.server.wire import MAX_PROGRAM_ID_CHARS, SCHEDULED_PATHS

FILE = Path(thunderagent_core.server.__file__).with_name("openapi.json")
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
BODIES = (EnvironmentSpec, RegisterBody, ReleaseBody, EventBody, BackendBody, ExecBody, ReapBody)
PASSED_ON = {"/v1/models": {"get"}, "/v1/{path}": {"get", "post", "put", "patch", "delete"}}


def test_every_route_is_described_and_no_other():
    described = {path: set(methods) for path, methods in DOCUMENT["paths"].items()}
    there = dict(PASSED_ON) | {path: {"post"} for path in SCHEDULED_PATHS}
    for parts, handlers in _table(Routes.__new__(Routes)).items():
        there["/" + "/".join(parts).replace("*", "{id}")] = {method.lower() for method in handlers}
    there["/programs/release"] = {"post"}  # the other methods are those of a program that is called so
    door = EnvironmentDoor(None, SpecGuard(()))
    for path, handlers in EnvironmentRoutes(None, door)._table.items():  # type: ignore[arg-type]
        named = path.replace("/programs/*", "/programs/{id}").replace("*", "{name}")
        there[named] = {method.lower() for method in handlers}
    assert described == there


def test_bodies_are_what_is_read():
    _, generated = msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")
    generated["RegisterBody"]["properties"]["environments"]["items"] = {"$ref": "#/components/schemas/EnvironmentSpec"}
    for name, schema in json.loads(json.dumps(generated)).items():
        assert SCHEMAS[name] == schema, f"{name} in openapi.json must be {json.dumps(schema)}"


def fields(name: str) -> set[str]:
    """Return the fields of an answer, each of which is always there unless the document says otherwise."""
    return set(SCHEMAS[name]["properties"])


def test_answers_about_environments_are_what_is_sent():
    view = EnvironmentView(**dict.fromkeys(EnvironmentView.__dataclass_fields__, 0) | {"ports": {}, "spec": {}})
    result = ExecResult(exit_code=0)
    item = ReapItem(**dict.fromkeys(ReapItem.__dataclass_fields__, ""))
    assert fields("Environment") == set(SCHEMAS["Environment"]["required"]) == set(environment_view(view, 0.0))
    assert fields("ExecResult") == set(result_view(result, "utf-8"))
    assert fields("ExecEnd") == set(ending_view(result))
    assert fields("ReapItem") == set(reap_view(item))
    assert set(SCHEMAS["EnvironmentState"]["enum"]) == set(State)


async def test_answers_about_the_rest_are_what_is_sent(engine, serve):
    run = await serve(engine)
    await run.chat("p")
    for path, name in (
        ("/health", "Status"),
        ("/ready", "Status"),
        ("/scheduling", "Scheduling"),
        ("/programs/p", "Program"),
    ):
        assert set(await run.get(path)) == fields(name)
    programs = await run.get("/programs")
    assert set(programs) == fields("ProgramList")
    assert set(programs["programs"][0]) == set(SCHEMAS["Program"]["required"]) == fields("Program") - {"environments"}
    assert set(programs["programs"][0]["history"][0]) == fields("HistoryEntry")
    backends = await run.get("/backends")
    assert set(backends) == fields("BackendList")
    assert set(backends["backends"][0]) == fields("Backend")
    assert set(backends["backends"][0]["engine"]) == fields("Engine")
    assert set((await run.release("p")).json()) == fields("Released")
    error = (await run.client.get("/programs/none")).json()
    assert set(error) == fields("Error")
    assert set(error["error"]) == set(SCHEMAS["Error"]["properties"]["error"]["properties"])


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def test_every_reference_leads_somewhere_and_every_part_is_used():
    used = set(references(DOCUMENT))
    for reference in used:
        node = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    there = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "parameters", "responses")
        for name in DOCUMENT["components"][kind]
    }
    told = {"#/components/schemas/ExecOutput", "#/components/schemas/ExecEnd"}  # in words: events have no schema
    assert there - used == told


def test_every_operation_is_whole():
    names = []
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            names.append(operation["operationId"])
            assert operation["responses"]["default"] == {"$ref": "#/components/responses/Error"}
            given = [
                DOCUMENT["components"]["parameters"][p["$ref"].split("/")[-1]] for p in operation.get("parameters", [])
            ]
            assert {p["name"] for p in given if p["in"] == "path"} == set(re.findall(r"{(\w+)}", path))
    assert len(set(names)) == len(names)


def test_limits_are_those_that_are_kept():
    parameters = DOCUMENT["components"]["parameters"]
    assert parameters["ProgramID"]["schema"]["maxLength"] == MAX_PROGRAM_ID_CHARS
    assert parameters["EnvironmentName"]["schema"]["pattern"] == f"^{NAME_PATTERN}$"
    assert SCHEMAS["ScheduledBody"]["properties"]["environments"]["maxItems"] == MAX_ENVIRONMENTS


@pytest.mark.parametrize("keyed", [False, True])
async def test_it_is_served(engine, serve, keyed):
    run = await serve(engine, api_keys=("secret-key",) if keyed else ())
    if keyed:
        assert (await run.client.get("/openapi.json")).status_code == 401
        run.client.headers["X-API-Key"] = "secret-key"
    response = await run.client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.content == FILE.read_bytes()
    assert b"secret-key" not in response.content
