"""Which engine answers is told by its metrics."""

from __future__ import annotations

import httpx
import pytest
from engine_helpers import URL, Answers, sglang_answers, vllm_answers

from thunderagent_core.engines.base import EngineError
from thunderagent_core.engines.discovery import detect
from thunderagent_core.engines.sglang import SglangClient
from thunderagent_core.engines.vllm import VllmClient


@pytest.mark.parametrize(
    ("answers", "kind"),
    [(vllm_answers(), VllmClient), (sglang_answers("metrics-llama.txt"), SglangClient)],
)
async def test_it_is_told_by_its_metrics(answers, kind):
    client = await detect(URL, transport=answers)
    assert isinstance(client, kind)
    assert client.url == URL
    assert client.kind == {VllmClient: "vllm", SglangClient: "sglang"}[kind]
    assert (await client.sample()).ranks == 1


async def test_the_key_goes_on_to_the_client():
    answers = vllm_answers()
    client = await detect(URL, api_key="k", transport=answers)
    await client.sample()
    assert {request.headers["authorization"] for request in answers.asked} == {"Bearer k"}


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (Answers(metrics=b"process_cpu_seconds_total 1\n"), "neither vLLM's nor SGLang's metrics"),
        (Answers(metrics=b"# HELP vllm:x mentioned only\n"), "neither vLLM's nor SGLang's metrics"),
        (Answers(), "it is neither vLLM nor SGLang"),
        (Answers(server_info={"internal_states": []}), "start SGLang with --enable-metrics"),
        (Answers(server_info=b"[]"), "it is neither vLLM nor SGLang"),
        (Answers(metrics=500), "/metrics answered 500"),
        (Answers(metrics=httpx.ConnectError("no route")), "is unreachable: no route"),
    ],
)
async def test_neither(answers, sentence):
    with pytest.raises(EngineError, match=sentence):
        await detect(URL, transport=answers)
