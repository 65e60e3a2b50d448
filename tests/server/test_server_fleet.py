"""Engines are watched each by itself, added, drained and removed while the server runs."""

from __future__ import annotations

import asyncio

import pytest
from scripted_engine import Gate
from server_tools import CHAT, HANG_S, messages, soon

from thunderagent_core.config import ServerConfig
from thunderagent_core.engines.base import EngineError
from thunderagent_core.server.serve import ServeError, running


async def test_fault_11_an_engine_that_tells_no_size_stops_the_start(engine_factory):
    good, silent = await engine_factory(), await engine_factory(capacity_tokens=None)
    for backends in ((silent.url,), (good.url, silent.url)):
        with pytest.raises(ServeError) as caught:
            async with running(ServerConfig(backends=backends, port=0, poll_timeout_s=HANG_S)):
                pass
        assert str(caught.value) == (
            f"{silent.url} does not report the size of its KV cache; give it with --capacity-tokens"
        )


async def test_fault_11_a_size_that_is_given_counts(engine_factory, serve):
    silent, other = await engine_factory(capacity_tokens=None), await engine_factory(capacity_tokens=5000)
    run = await serve(silent, other, capacity_tokens=777)
    assert [b["capacity_tokens"] for b in (await run.get("/backends"))["backends"]] == [777, 777]
    assert (await run.chat("p")).status_code == 200


async def test_fault_11_a_backend_that_is_down_is_not_healthy(engine_factory, serve):
    down, up = await engine_factory(), await engine_factory()
    await down.stop()
    run = await serve(down, up)
    views = {b["id"]: b for b in (await run.get("/backends"))["backends"]}
    assert (views[down.id]["healthy"], views[up.id]["healthy"]) == (False, True)
    assert "refused" in views[down.id]["reason"]
    assert views[up.id]["reason"] is None
    assert (await run.client.get("/ready")).status_code == 200
    await up.stop()
    await run.healthy(0)
    assert (await run.client.get("/ready")).status_code == 503
    assert (await run.client.get("/health")).status_code == 200, "the process lives"
    await down.start()
    await run.healthy(1)
    assert (await run.client.get("/ready")).status_code == 200


async def test_fault_11_an_engine_added_without_a_size_is_not_used_and_says_why(engine_factory, serve):
    silent = await engine_factory(capacity_tokens=None)
    run = await serve()
    assert (await run.client.post("/backends", json={"url": silent.url})).status_code == 201
    await soon(lambda: "does not report the size" in (run.server.fleet.engines[silent.id].problem or ""))
    assert (await run.chat("p")).status_code == 503
    silent.capacity_tokens = 1000
    await run.healthy(1)
    assert (await run.chat("p")).status_code == 200


async def test_the_start_waits_for_an_engine_where_it_is_told_to(engine_factory):
    engine = await engine_factory()
    await engine.stop()
    patient = {"poll_timeout_s": HANG_S, "startup_wait_s": HANG_S}
    config = ServerConfig(backends=(engine.url,), port=0, poll_interval_s=0.05, **patient)

    async def later():
        await asyncio.sleep(0.2)
        await engine.start()

    task = asyncio.create_task(later())
    async with running(config) as server:
        assert server.fleet.engines[engine.id].problem is None
        assert task.done(), "the start ended only once the engine was there"
    await task


async def test_a_taken_port_stops_the_start(engine):
    with pytest.raises(ServeError, match=rf"cannot listen on 127\.0\.0\.1:{engine.port}: .*in use"):
        async with running(ServerConfig(backends=(engine.url,), port=engine.port)):
            pass


async def test_fault_12_a_hung_backend_does_not_delay_what_is_known_of_the_others(engine_factory, serve):
    hung, lively = await engine_factory(), await engine_factory(capacity_tokens=1000)
    run = await serve(hung, lively, poll_timeout_s=600.0)
    hung.answers_polls.clear()
    polled = hung.polls
    await soon(lambda: hung.polls > polled)  # it is being asked, and will not answer for as long as the test takes
    asked = lively.polls
    await soon(lambda: lively.polls > asked + 30)
    lively.capacity_tokens = 2000
    await soon(lambda: run.scheduler.backends[lively.id].capacity_tokens == 2000)
    await lively.stop()
    await soon(lambda: not run.scheduler.backends[lively.id].healthy)
    assert (await run.chat("p")).status_code == 200, "decisions go on as well"


class TimingOut:
    """A client of an engine that is hung: each look at it times out when the test says so."""

    kind = "hung"

    def __init__(self, url: str) -> None:
        self.url = url
        self.time_out = asyncio.Semaphore(0)

    async def sample(self):
        await self.time_out.acquire()
        raise EngineError(f"{self.url} did not answer in time")

    async def aclose(self) -> None:
        pass


async def test_fault_12_a_hung_backend_is_lost_after_some_polls(engine_factory, serve):
    hung, lively = await engine_factory(), await engine_factory()
    run = await serve(hung, lively, lost_after_polls=3)
    engine, backend = run.server.fleet.engines[hung.id], run.scheduler.backends[hung.id]
    client = TimingOut(hung.url)
    engine.client, real = client, engine.client
    for failures in (1, 2):
        client.time_out.release()
        await soon(lambda failures=failures: engine.failures == failures)
        assert backend.healthy, "a time-out may only mean that it is busy"
    client.time_out.release()
    await soon(lambda: engine.failures == 3)
    assert not backend.healthy
    assert "did not answer" in (engine.problem or "")
    engine.client = real
    client.time_out.release()  # the look that is under way
    await run.healthy(2)
    assert engine.failures == 0


async def test_a_hung_engine_in_a_starting_fleet_delays_the_start_by_its_time_out_at_most(engine_factory, serve):
    hung, lively = await engine_factory(), await engine_factory()
    hung.answers_polls.clear()
    async with asyncio.timeout(HANG_S):
        run = await serve(hung, lively, poll_timeout_s=1.0, startup_wait_s=600.0)
    assert "did not answer" in (run.server.fleet.engines[hung.id].problem or "")
    assert (await run.chat("p")).status_code == 200


async def test_metrics_that_fail_are_a_poll_without_an_answer(engine, serve):
    run = await serve(engine, lost_after_polls=2)
    engine.metrics_status = 500
    await run.healthy(0)
    assert "500" in (run.server.fleet.engines[engine.id].problem or "")
    engine.metrics_status = 200
    await run.healthy(1)


async def test_a_restart_is_noticed_and_the_cache_counts_as_gone(engine, serve):
    run = await serve(engine)
    await run.chat("p", "a long prompt " * 20)
    await run.idle()
    await soon(lambda: run.server.fleet.engines[engine.id].sample.prompt_tokens > 0)
    assert (await run.program("p"))["status"] == "active"
    generation = run.scheduler.backends[engine.id].generation
    engine.prompt_tokens = 0  # the counters of a new process, which was up again before the next poll
    await soon(lambda: run.scheduler.backends[engine.id].generation == generation + 1)
    await run.healthy(1)
    program = await run.program("p")
    assert program["status"] == "paused"
    assert program["history"][-1]["reason"] == "backend lost"
    assert (await run.chat("p")).status_code == 200


async def test_backends_are_added_while_the_server_runs(engine_factory, serve):
    run = await serve()
    assert (await run.get("/backends")) == {"backends": []}
    assert (await run.chat("p")).status_code == 503
    engine = await engine_factory()
    response = await run.client.post("/backends", json={"url": engine.url + "/"})
    assert (response.status_code, response.json()["id"], response.json()["url"]) == (201, engine.id, engine.url)
    await run.healthy(1)
    assert (await run.chat("p")).status_code == 200
    again = await run.client.post("/backends", json={"url": engine.url})
    assert (again.status_code, again.json()["id"], again.json()["healthy"]) == (200, engine.id, True)
    other = await run.client.post("/backends", json={"url": f"https://127.0.0.1:{engine.port}"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "backend_conflict")
    assert other.headers["x-should-retry"] == "false"
    assert len((await run.get("/backends"))["backends"]) == 1


async def test_a_drained_backend_finishes_its_requests_and_leaves(engine_factory, serve, raw):
    leaving, staying = await engine_factory(capacity_tokens=32_000), await engine_factory()
    leaving.reply = gate = Gate()
    run = await serve(leaving, staying)
    flying = run.asking("p")
    await soon(lambda: gate.arrived == 1)
    response = await run.client.delete(f"/backends/{leaving.id}")
    assert (response.status_code, response.json()) == (202, {"id": leaving.id, "draining": True})
    assert (await run.client.delete(f"/backends/{leaving.id}")).status_code == 202
    view = next(b for b in (await run.get("/backends"))["backends"] if b["id"] == leaving.id)
    assert (view["draining"], view["in_flight"]) == (True, 1)
    busy = await run.client.post("/backends", json={"url": leaving.url})
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "backend_draining")
    assert "retry-after" in busy.headers
    other = await run.chat("q")
    assert other.status_code == 200
    assert len(staying.seen) == 1
    second = await raw(run.port)
    second.post(CHAT, messages(program_id="p"))  # its program leaves this engine, and does not wait for it
    assert (await second.head()).startswith(b"HTTP/1.1 200 ")
    assert not flying.done()
    gate.open()
    assert (await flying).status_code == 200
    assert (len(leaving.seen), len(staying.seen)) == (1, 2)
    await soon(lambda: leaving.id not in run.server.fleet.engines)
    assert [b["id"] for b in (await run.get("/backends"))["backends"]] == [staying.id]
    assert (await run.client.delete(f"/backends/{leaving.id}")).status_code == 404
    polls = leaving.polls
    asked = staying.polls
    await soon(lambda: staying.polls > asked + 5)
    assert leaving.polls == polls, "nobody looks at it any more"
    assert (await run.client.post("/backends", json={"url": leaving.url})).status_code == 201
    await run.healthy(2)


async def test_an_idle_backend_leaves_at_once(engine_factory, serve):
    leaving, staying = await engine_factory(capacity_tokens=32_000), await engine_factory()
    run = await serve(leaving, staying)
    await run.chat("p")
    await run.idle()
    await run.client.delete(f"/backends/{leaving.id}")
    assert leaving.id not in run.server.fleet.engines
    assert (await run.program("p"))["status"] == "paused"
    assert (await run.chat("p")).status_code == 200
    assert (await run.program("p"))["backend"] == staying.id


async def test_a_poller_that_meets_a_bug_goes_on_and_does_not_vouch_for_its_engine(engine, serve, caplog):
    run = await serve(engine, lost_after_polls=2)
    client = run.server.fleet.engines[engine.id].client
    sample, client.sample = client.sample, None  # calling None is a bug if there ever was one
    await run.healthy(0)
    assert "TypeError" in (run.server.fleet.engines[engine.id].problem or "")
    assert "is a bug" in caplog.text
    client.sample = sample
    await run.healthy(1)


class Stubborn:
    """A client that answers being cancelled with an error, as a task group does when a child fails just then."""

    kind = "stubborn"

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked = asyncio.Event()

    async def sample(self):
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise EngineError("the connection was closed") from None

    async def aclose(self) -> None:
        pass


async def test_the_server_stops_though_a_poll_swallows_its_cancellation(engine):
    client = Stubborn(engine.url)
    quick = {"poll_interval_s": 0.01, "poll_timeout_s": HANG_S}
    async with running(ServerConfig(backends=(engine.url,), port=0, **quick)) as server:
        server.fleet.engines[engine.id].client, real = client, server.fleet.engines[engine.id].client
        await client.asked.wait()
        await real.aclose()
        async with asyncio.timeout(HANG_S):
            await server.stop(0.0)


@pytest.mark.parametrize("turns", range(5))
async def test_the_server_stops_whatever_its_poller_is_about_to_do(engine, turns):
    rarely = {"poll_interval_s": 600.0, "poll_timeout_s": HANG_S}
    async with running(ServerConfig(backends=(engine.url,), port=0, **rarely)) as server:
        server.fleet.suspect(server.fleet.engines[engine.id])
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(HANG_S):
            await server.stop(0.0)
