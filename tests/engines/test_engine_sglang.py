"""SGLang's client on what real servers answered (sources in ``recorded/sglang``)."""

from __future__ import annotations

import pytest
from engine_helpers import SGLANG, URL, Answers, sglang_answers

from thunderagent_core.engines.base import EngineError
from thunderagent_core.engines.prometheus import parse
from thunderagent_core.engines.sglang import SglangClient

RANKED = """
sglang:num_running_reqs{dp_rank="0",engine_type="unified",priority="",tp_rank="0"} 2.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",priority="",tp_rank="1"} 2.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",priority="10",tp_rank="0"} 2.0
sglang:num_running_reqs{dp_rank="1",engine_type="unified",priority="",tp_rank="2"} 3.0
sglang:num_running_reqs{engine_type="unified",priority="",tp_rank="0"} 5.0
sglang:num_queue_reqs{dp_rank="0",tp_rank="0"} 1.0
sglang:num_queue_reqs{dp_rank="1",tp_rank="2"} 4.0
sglang:token_usage{dp_rank="0",tp_rank="0"} 0.2
sglang:token_usage{dp_rank="1",tp_rank="2"} 0.4
sglang:max_total_num_tokens{dp_rank="0",tp_rank="0"} 60000
sglang:max_total_num_tokens{dp_rank="0",tp_rank="1"} 60000
sglang:max_total_num_tokens{dp_rank="1",tp_rank="2"} 60000
sglang:page_size{dp_rank="0",tp_rank="0"} 64
sglang:num_retracted_requests_total{dp_rank="1",tp_rank="2"} 7
sglang:prompt_tokens_total{model_name="m"} 1000
sglang:cached_tokens_total{cache_source="device",model_name="m"} 300
sglang:cached_tokens_total{cache_source="host",model_name="m"} 100
"""


async def sample(answers: Answers):
    client = SglangClient(URL, transport=answers)
    try:
        return await client.sample()
    finally:
        await client.aclose()


async def test_a_loaded_server():
    seen = await sample(sglang_answers("metrics-llama.txt"))
    assert (seen.running, seen.waiting, seen.kv_usage) == (162, 2826, 0.28)
    assert (seen.prompt_tokens, seen.cached_tokens, seen.ranks) == (8_128_902, 0, 1)
    assert (seen.capacity_tokens, seen.block_tokens) == (20_480, 1)
    assert (seen.models, seen.max_model_len) == (("qwen",), 32_768)


async def test_labels_of_later_releases():
    seen = await sample(sglang_answers("metrics-unified.txt"))
    assert (seen.running, seen.waiting, seen.kv_usage, seen.ranks) == (1, 0, 0.0, 1)


def test_ranks_in_the_order_of_arrival():
    text = (SGLANG / "metrics-dp8.txt").read_text()
    metrics = parse(text, ["sglang:gen_throughput", "sglang:num_paused_reqs"])
    assert metrics.label_values("dp_rank", "sglang:gen_throughput") == set("0234567")
    assert metrics.label_values("pid", "sglang:num_paused_reqs") == {"910", "911", "912", "913", "915"}


async def test_ranks_workers_and_priorities_are_not_counted_twice():
    answers = sglang_answers("metrics-llama.txt")
    answers.pages["/metrics"] = RANKED
    seen = await sample(answers)
    assert (seen.ranks, seen.running, seen.waiting, seen.preemptions) == (2, 5, 5, 7)
    assert seen.kv_usage == pytest.approx(0.3)
    assert (seen.capacity_tokens, seen.block_tokens) == (120_000, 64)
    assert (seen.prompt_tokens, seen.cached_tokens) == (1_000, 400)


@pytest.mark.parametrize(
    ("info", "capacity"),
    [
        ({"internal_states": [{"memory_usage": {"token_capacity": 10}}] * 3, "dp_size": 3}, 30),
        ({"max_total_num_tokens": 20, "dp_size": 2, "internal_states": [{"memory_usage": None}, {}]}, 40),
        ({"max_total_num_tokens": 20}, 20),
        ({"max_total_num_tokens": None, "internal_states": "no"}, None),
        ({}, None),
    ],
)
async def test_capacity_from_the_settings(info, capacity):
    answers = sglang_answers("metrics-unified.txt")
    answers.pages["/server_info"] = info
    assert (await sample(answers)).capacity_tokens == capacity


async def test_the_settings_are_asked_for_once_until_it_fails_or_restarts():
    answers = sglang_answers("metrics-llama.txt")
    answers.pages["/get_server_info"] = answers.pages.pop("/server_info")
    client = SglangClient(URL, transport=answers)
    asked = lambda: answers.paths().count("/get_server_info")  # noqa: E731 - a name for the count
    await client.sample()
    await client.sample()
    assert asked() == 1
    metrics = answers.pages["/metrics"]
    answers.pages["/metrics"] = 503
    with pytest.raises(EngineError):
        await client.sample()
    answers.pages["/metrics"] = metrics
    await client.sample()
    assert asked() == 2
    answers.pages["/metrics"] = metrics.replace(b"8.128902e+06", b"5.0")
    await client.sample()
    await client.sample()
    assert asked() == 3


@pytest.mark.parametrize(
    ("page", "answer", "sentence"),
    [
        ("/metrics", 404, "start SGLang with --enable-metrics"),
        ("/metrics", b"sglang:nothing 1\n", r"has no sglang:num_running_reqs: is it SGLang\?"),
        ("/metrics", b"sglang:num_running_reqs x\n", "cannot be read"),
        ("/server_info", 500, "/server_info answered 500"),
        ("/server_info", 404, "/server_info answered 404"),
        ("/v1/models", 401, "/v1/models answered 401"),
    ],
)
async def test_failures_say_what_is_wrong(page, answer, sentence):
    answers = sglang_answers("metrics-llama.txt")
    answers.pages[page] = answer
    with pytest.raises(EngineError, match=sentence):
        await sample(answers)
