"""vLLM's client on what a real vLLM 0.32 answered, with one rank and with two."""

from __future__ import annotations

import httpx
import pytest
from engine_helpers import URL, VLLM_DP2, vllm_answers

from thunderagent_core.engines.base import EngineError
from thunderagent_core.engines.vllm import VllmClient


async def sample(answers):
    client = VllmClient(URL, transport=answers)
    try:
        return await client.sample()
    finally:
        await client.aclose()


def info(**labels: str) -> str:
    inner = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"vllm:cache_config_info{{{inner}}} 1.0\n"


def with_metrics(text: str):
    answers = vllm_answers()
    answers.pages["/metrics"] = f'vllm:num_requests_running{{engine="0"}} 1.0\n{text}'
    return answers


async def test_one_rank():
    seen = await sample(vllm_answers())
    assert (seen.capacity_tokens, seen.block_tokens, seen.max_model_len) == (16_384, 32, 8_192)
    assert (seen.models, seen.ranks, seen.running, seen.waiting) == (("smollm2",), 1, 0, 0)
    assert seen.prompt_tokens > seen.cached_tokens > 0
    assert seen.kv_usage == 0.0


async def test_two_ranks_add_up():
    """Each line's ``num_gpu_blocks`` is the sum already; only ``kv_cache_size_tokens`` is one rank's."""
    seen = await sample(vllm_answers(VLLM_DP2))
    assert seen.ranks == 2
    assert seen.capacity_tokens == 2 * 16_384
    assert (seen.prompt_tokens, seen.cached_tokens) == (330, 64)


async def test_two_ranks_that_do_not_tell_their_size_in_tokens():
    answers = vllm_answers(VLLM_DP2)
    text = answers.pages["/metrics"].decode()
    answers.pages["/metrics"] = text.replace('kv_cache_size_tokens="16384"', 'kv_cache_size_tokens="None"')
    assert (await sample(answers)).capacity_tokens == 2 * 16_384


@pytest.mark.parametrize(
    ("text", "capacity"),
    [
        (info(block_size="16", num_gpu_blocks="100"), 1_600),
        (info(num_gpu_blocks="100", engine="0", block_size="16", kv_cache_size_tokens="None"), 1_600),
        (info(kv_cache_size_tokens="5000", num_gpu_blocks="100", block_size="16"), 5_000),
        (info(block_size="16", num_gpu_blocks="None"), None),
        (info(block_size="None", num_gpu_blocks="100"), None),
        (info(engine="0"), None),
        ("", None),
    ],
)
async def test_capacity(text, capacity):
    assert (await sample(with_metrics(text))).capacity_tokens == capacity


async def test_names_of_earlier_releases():
    text = (
        'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n'
        'vllm:gpu_prefix_cache_queries{model_name="m"} 100.0\n'
        'vllm:gpu_prefix_cache_hits{model_name="m"} 40.0\n'
        'vllm:num_preemptions{model_name="m"} 3.0\n'
        'vllm:num_requests_waiting{model_name="m"} 2.0\n'
    )
    seen = await sample(with_metrics(text))
    assert (seen.prompt_tokens, seen.cached_tokens, seen.preemptions, seen.waiting) == (100, 40, 3, 2)
    assert seen.kv_usage == 0.5


async def test_usage_is_the_mean_over_ranks():
    text = 'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.75\n'
    assert (await sample(with_metrics(text))).kv_usage == 0.5


async def test_a_restart_is_reported_as_it_is():
    answers = vllm_answers()
    client = VllmClient(URL, transport=answers)
    before = await client.sample()
    answers.pages["/metrics"] = b'vllm:num_requests_running{engine="0"} 0.0\n'
    assert before.prompt_tokens > (await client.sample()).prompt_tokens == 0


async def test_models_that_tell_no_length():
    answers = vllm_answers()
    answers.pages["/v1/models"] = {"data": [{"id": "a"}, {"id": "b", "max_model_len": 100}, {"id": 3}, "text"]}
    seen = await sample(answers)
    assert (seen.models, seen.max_model_len) == (("a", "b"), 100)
    answers.pages["/v1/models"] = {"data": None}
    seen = await sample(answers)
    assert (seen.models, seen.max_model_len) == ((), None)


async def test_what_is_asked():
    answers = vllm_answers()
    await sample(answers)
    assert sorted(answers.paths()) == ["/health", "/metrics", "/v1/models"]


@pytest.mark.parametrize(
    ("page", "answer", "sentence"),
    [
        ("/health", 503, "/health answered 503"),
        ("/metrics", 404, "/metrics answered 404"),
        ("/metrics", b"<html>sorry</html>", "/metrics has no vllm:num_requests_running: is it vLLM?"),
        ("/metrics", b"vllm:num_requests_running{ 1\n", "/metrics cannot be read"),
        ("/v1/models", 401, "/v1/models answered 401"),
        ("/v1/models", b"[]", "/v1/models did not answer with a JSON object"),
        ("/metrics", httpx.ConnectError("no route"), "/metrics is unreachable: no route"),
        ("/health", httpx.ReadTimeout(""), "/health did not answer within 2 s"),
    ],
)
async def test_failures_say_what_is_wrong(page, answer, sentence):
    answers = vllm_answers()
    answers.pages[page] = answer
    with pytest.raises(EngineError, match=sentence.replace("?", r"\?")):
        await sample(answers)
