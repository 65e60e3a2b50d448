"""The whole benchmark against a simulated engine, and a router that only says that it schedules."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import agents
from benchmarks.closed_loop import calibration, report, router
from benchmarks.closed_loop.arms import parse_arm
from benchmarks.closed_loop.calibration import (
    DECODE_BATCHES,
    DECODE_TOKENS,
    PREFILL_ROUNDS,
    PREFILL_TOKENS,
    Calibration,
    calibrate,
    fit,
)
from benchmarks.closed_loop.engine import EngineChoice, UnusableEngineError, look_at, refresh, running_engine
from benchmarks.closed_loop.running import Ground
from benchmarks.closed_loop.session import run_session, schedule
from thunderagent_core.demo.workload import Workload
from thunderagent_core.engines.simulated.engine import SimulatedEngine
from thunderagent_core.engines.simulated.settings import EngineSettings
from thunderagent_core.engines.simulated.timing import StepLoad, attention_pairs

SMALL = ["--programs", "3", "--turns", "2", "--start-spread-s", "0", "--speed", "100", "--pool-tokens", "4096"]
LOAD = Workload(programs=2, turns=2, tool_s=0.0, start_spread_s=0.0)
CALIBRATION = Calibration(0.01, 0.5, 0.04, 0.03, 0.004, 0.0)

STUB = """#!{python}
import http.server, json, sys

class Router(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({answers}[self.path]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts):
        pass

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Router).serve_forever()
"""


class Silent:
    """A watcher that does not look."""

    def run_started(self, slot):
        pass

    def request_ended(self, record):
        pass

    def run_ended(self, run):
        pass


@pytest.fixture
async def simulated():
    async with SimulatedEngine(EngineSettings(port=0, speed=1_000)) as running:
        yield running


@pytest.fixture
async def engine(simulated):
    return await look_at(simulated.url, origin="a test", speed=1_000)


@pytest.fixture
def stub(tmp_path):
    """Write a program that answers as vllm-router would, but takes no request."""

    def write(capacity_tokens, samples):
        rank = {"configured_token_capacity": capacity_tokens, "rolling": {"request_samples": samples}}
        answers = {"/v1/models": {"data": []}, "/scheduling/diagnostics": {"ranks": [rank]}}
        path = tmp_path / "vllm-router"
        path.write_text(STUB.format(python=sys.executable, answers=answers))
        path.chmod(0o755)
        return path

    return write


@pytest.mark.timeout(900)
def test_from_the_command_line_to_the_page(tmp_path):
    page = tmp_path / "page.md"
    files = ["--out", str(tmp_path / "agents.json"), "--report", str(page), "--plot", str(tmp_path / "plots")]
    names = ["direct", "passthrough", "paper:growth_reserve_tokens=64", "cap:2"]
    chosen = [word for name in names for word in ("--arm", name)]
    assert agents.main(["--simulated", "--seeds", "1,2", *SMALL, *chosen, *files]) == 0
    stored = json.loads((tmp_path / "agents.json").read_text())
    assert [run["errors"] for run in stored["runs"]] == [[]] * 8
    assert [run["figures"]["steps"] for run in stored["runs"]] == [6] * 8
    by_seed = [{run["figures"]["context_max_tokens"] for run in stored["runs"] if run["seed"] == s} for s in (1, 2)]
    assert [len(sizes) for sizes in by_seed] == [1, 1], "all arms of a seed do the same"
    assert by_seed[0] != by_seed[1]
    assert all(850 < run["figures"]["context_first_tokens"] < 1000 for run in stored["runs"])
    assert "growth-reserve-tokens" in str(stored["runs"][2]["setup"])
    assert all(f"| {name} |" in page.read_text() for name in names)
    assert len(list((tmp_path / "plots").iterdir())) == 3
    again = tmp_path / "again.md"
    assert agents.main(["--show", str(tmp_path / "agents.json"), "--report", str(again)]) == 0
    assert report.splice(page.read_text(), "") == report.splice(again.read_text(), "")
    assert agents.main(["--show", str(tmp_path / "agents.json"), "--check"]) == 1, "the paper itself was not measured"


def test_nothing_is_measured_where_there_is_no_engine(tmp_path, capsys, closed_port):
    out = tmp_path / "agents.json"
    url = f"http://127.0.0.1:{closed_port}"
    assert agents.main(["--backend", url, "--arm", "direct", "--out", str(out)]) == 2
    assert url in capsys.readouterr().err.replace("\n", "")
    assert not out.exists()


async def test_between_two_runs_the_engine_forgets(simulated, engine):
    await calibrate(engine)
    assert simulated.model.pool.cached_hashes
    await refresh(engine)
    assert not simulated.model.pool.cached_hashes
    await simulated.stop()
    with pytest.raises(UnusableEngineError):
        await refresh(engine)


async def test_blocks_that_are_still_held_are_waited_for(simulated, engine, monkeypatch):
    await calibrate(engine)
    empty, asked = simulated.model.reset_prefix_cache, []

    def held_twice(**options):
        asked.append(options)
        return len(asked) > 2 and empty(**options)

    monkeypatch.setattr(simulated.model, "reset_prefix_cache", held_twice)
    await refresh(engine)
    assert len(asked) == 3
    assert not simulated.model.pool.cached_hashes


async def test_an_engine_that_is_started_is_as_large_as_asked():
    async with running_engine(EngineChoice(simulated=True, pool_tokens=2048, speed=50)) as engine:
        assert (engine.capacity_tokens, engine.block_tokens, engine.chars_per_token) == (2048, 32, 4.0)


async def test_calibration_asks_for_prefills_and_for_batches(monkeypatch):
    """What it measures is what it fits: cold prompts, none quicker than the engine computes it, and whole batches."""
    measured = []
    monkeypatch.setattr(calibration, "fit", lambda *measurements: measured.append(measurements) or fit(*measurements))
    settings = EngineSettings(port=0, speed=50)
    async with SimulatedEngine(settings) as simulated:
        engine = await look_at(simulated.url, origin="a test", speed=settings.speed)
        found = await calibrate(engine)
    ((prefills, steps),) = measured
    assert found == fit(prefills, steps)
    assert [size for size, _ in prefills] == pytest.approx(list(PREFILL_TOKENS) * PREFILL_ROUNDS, rel=0.2)
    for size, seconds in prefills:
        alone = settings.coefficients.step_s(StepLoad(size, 0, attention_pairs(0, size)))
        assert seconds >= 0.99 * alone / settings.speed, (
            "all of the prompt was computed, and nothing found in the cache"
        )
    assert [batch for batch, *_ in steps] == list(DECODE_BATCHES) * 2
    short, long = steps[: len(DECODE_BATCHES)], steps[len(DECODE_BATCHES) :]
    assert all(more > 5 * less for (_, less, _), (_, more, _) in zip(short, long, strict=True))
    decodes = 2 * sum(DECODE_BATCHES) * (1 + DECODE_TOKENS)
    assert simulated.model.statistics.generation_tokens == len(prefills) + decodes


async def session(engine, binary, arm="vllm-router"):
    ground = Ground(engine=engine, calibration=CALIBRATION, binary=binary, request_timeout_s=120.0)
    return [run async for run in run_session(schedule([parse_arm(arm)], [1]), LOAD, ground, Silent())]


async def test_agents_that_fail_make_the_arm_fail(engine, stub):
    (run,) = await session(engine, stub(16_368, 4))
    assert "HTTP 501" in run.errors[0]
    assert run.setup["config"]["token_capacity_per_dp_rank"] == engine.capacity_tokens - engine.block_tokens


async def test_a_router_that_does_not_start_makes_the_arm_fail(engine, tmp_path):
    broken = tmp_path / "vllm-router"
    broken.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 2\n")
    broken.chmod(0o755)
    (run,) = await session(engine, broken)
    assert "no such option" in run.errors[0]
    assert run.figures == {}


async def test_a_server_that_does_not_start_makes_the_arm_fail(engine):
    (run,) = await session(engine, None, "paper:host=192.0.2.1")  # nobody's address: set aside for documentation
    assert "cannot listen on 192.0.2.1:" in run.errors[0]


@pytest.mark.parametrize(
    ("capacity", "samples", "complaint"),
    [(16_352, 100, None), (16_384, 100, "16384 tokens"), (16_352, 30, "30 of 192"), (None, 100, "None tokens")],
)
async def test_a_router_must_schedule_what_it_is_measured_for(engine, stub, capacity, samples, complaint):
    config = {"token_capacity_per_dp_rank": 16_352, "stats_window_size": 100}
    async with router.running_router(stub(capacity, samples), engine, config) as url:
        if complaint is None:
            await router.check_diagnostics(url, config, 192)
            return
        with pytest.raises(router.RouterError, match=complaint):
            await router.check_diagnostics(url, config, 192)
