"""Who may use tool environments, what they may reach of the host, and what can be seen of them."""

from __future__ import annotations

import asyncio

import pytest
from environment_server import CHAT, check_error, eventually, messages

SHELL = {"name": "shell"}
PATH = "/programs/p/environments/shell"
ROUTES = [
    ("GET", "/environments"),
    ("POST", "/environments/reap"),
    ("GET", "/programs/p/environments"),
    ("POST", "/programs/p/environments"),
    ("GET", PATH),
    ("DELETE", PATH),
    ("POST", f"{PATH}/exec"),
    ("POST", f"{PATH}/snapshot"),
    ("GET", f"{PATH}/files?path=/workspace/x"),
    ("PUT", f"{PATH}/files?path=/workspace/x"),
]


class TestKeys:
    async def test_every_route_needs_one(self, place):
        served = await place.start(api_keys=("secret-key",))
        for method, path in ROUTES:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                response = await served.client.request(method, path, headers=headers)
                check_error(response, 401, None, code="invalid_api_key")
        served.client.headers["Authorization"] = "Bearer secret-key"
        assert (await served.register("p", SHELL)).status_code == 201
        assert await served.sh(PATH, "env | grep -c secret-key; true") == "0\n"


class TestBrowsers:
    async def test_no_page_may_change_anything(self, served, shell):
        for origin in ("http://evil.example", "http://localhost:3000"):
            for method, path in ROUTES:
                if method == "GET":
                    continue
                response = await served.client.request(method, path, headers={"Origin": origin}, content=b"{}")
                check_error(response, 403, None, code="browser_request")
        body = messages(program_id="q", environments=[SHELL])
        response = await served.client.post(CHAT, json=body, headers={"Origin": "http://evil.example"})
        check_error(response, 403, None, code="browser_request")
        assert [view["name"] for view in (await served.get("/environments"))["environments"]] == ["shell"]

    async def test_a_name_that_is_not_ours(self, served, shell):
        for method, path in ROUTES:
            response = await served.client.request(method, path, headers={"Host": "evil.example"}, content=b"{}")
            check_error(response, 403, None, code="foreign_host")


class TestMounts:
    @pytest.fixture
    async def rooted(self, place, tmp_path):
        root = tmp_path / "allowed"
        (root / "data").mkdir(parents=True)
        (root / "data" / "file").write_text("of the host\n")
        (tmp_path / "secret").mkdir()
        (tmp_path / "allowedly").mkdir()
        (root / "way-out").symlink_to(tmp_path / "secret")
        return await place.start(environment_mount_roots=(root,)), root

    async def test_inside_of_a_root_and_read_only(self, rooted):
        served, root = rooted
        spec = {**SHELL, "mounts": [{"source": str(root / "data"), "target": "/data"}]}
        assert (await served.register("p", spec)).status_code == 201
        assert await served.sh(PATH, "cat /data/file") == "of the host\n"
        result = await served.post(f"{PATH}/exec", command="echo x >/data/file; echo x >/data/new")
        assert "Read-only" in result["stderr"]
        assert [path.name for path in (root / "data").iterdir()] == ["file"]

    async def test_outside_of_every_root(self, rooted):
        served, root = rooted
        outside = (root.parent, root.parent / "secret", root.parent / "allowedly", root / "way-out", "/", "/etc/passwd")
        for source in outside:
            spec = {
                **SHELL,
                "mounts": [{"source": str(root), "target": "/ok"}, {"source": str(source), "target": "/x"}],
            }
            response = await served.register("p", spec)
            check_error(response, 400, "environments[0].mounts[1].source", code="invalid_value")
        dotted = {**SHELL, "mounts": [{"source": f"{root}/data/../..", "target": "/x"}]}
        check_error(await served.register("p", dotted), 400, "environments[0].mounts", code="invalid_value")
        await served.register("q")
        image = {**SHELL, "image": str(root.parent)}
        response = await served.client.post("/programs/q/environments", json=image)
        check_error(response, 400, "image", code="invalid_value")
        assert (await served.get("/environments"))["environments"] == []


class TestSeen:
    async def test_in_the_metrics(self, served, shell):
        await served.register("q", {"name": "other"})
        await served.register("bad", {"name": "shell", "setup": ["exit 3"]})
        await served.client.get("/programs/bad/environments/shell?wait_s=60")
        await served.until("bad", "shell", "failed")
        seen = await served.metrics()
        assert seen['thunderagent_environments{state="ready"}'] == 1
        assert seen['thunderagent_environments{state="failed"}'] == 1
        assert seen["thunderagent_environment_made_total"] == 1
        assert seen['thunderagent_environment_failures_total{code="setup_failed"}'] == 1
        assert seen["thunderagent_environment_disk_reserved_bytes"] == 256 << 20
        assert seen["thunderagent_environment_start_seconds_count"] == 1
        assert 0 < seen["thunderagent_environment_start_seconds_sum"] < 60
        assert seen['thunderagent_environment_free_disk_bytes{endpoint="",provider="process"}'] > 0
        await served.release("p")
        await served.release("bad")

        async def counted() -> bool:
            seen = await served.metrics()
            return (
                seen["thunderagent_environment_reclaim_seconds_count"]
                >= 1
                <= seen["thunderagent_environment_reclaimed_total"]
            )

        await eventually(counted)

    async def test_what_would_be_taken_back(self, served, shell):
        assert await served.post("/environments/reap", dry_run=True) == {"dry_run": True, "items": []}
        assert await served.post("/environments/reap") == {"dry_run": False, "items": []}
        assert (await served.client.post("/environments/reap")).status_code == 200
        response = await served.client.post("/environments/reap", json={"dryrun": True})
        check_error(response, 422, "dryrun", code="unknown_field")
        assert (await served.view("p", "shell"))["state"] == "ready"

    async def test_something_with_our_label_that_nobody_knows(self, place):
        served = await place.start(environment_quarantine_grace_s=1000)
        bed = served.bed
        other = bed.another()
        plan = bed.plan("0123456789abcdef")
        await other.create(plan)
        try:
            [item] = (await served.post("/environments/reap", dry_run=True))["items"]
            assert item["kind"] == "environment"
            assert item["name"] == plan.place.handle
            assert 0 < item["due_in_s"] <= 1000

            async def known() -> bool:
                views = (await served.get("/environments"))["environments"]
                return [view["state"] for view in views] == ["quarantined"]

            await eventually(known)
            assert (await other.look(plan.place)).liveness == "alive"
        finally:
            await other.aclose()
        assert (await served.metrics())["thunderagent_environment_quarantined_total"] == 1

    async def test_many_at_once(self, served):
        specs = [{"name": f"e{number}"} for number in range(4)]
        await served.register("p", *specs)
        paths = [f"/programs/p/environments/e{number}" for number in range(4)]
        said = await asyncio.gather(*(served.sh(path, f"echo {path}") for path in paths))
        assert said == [f"{path}\n" for path in paths]
        await served.release("p")
        await served.nothing_left()
