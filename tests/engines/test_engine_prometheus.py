"""Exposition text of real engines, read without regard to the order of labels."""

from __future__ import annotations

import pytest
from engine_helpers import SGLANG, VLLM, VLLM_DP2

from thunderagent_core.engines.prometheus import MetricsError, parse


def test_samples_of_real_text():
    metrics = parse((VLLM / "metrics.txt").read_text(), ["vllm:num_requests_running", "vllm:cache_config_info"])
    (sample,) = metrics.samples("vllm:num_requests_running")
    assert sample.labels == {"engine": "0", "model_name": "smollm2"}
    (info,) = metrics.infos("vllm:cache_config_info")
    assert info["kv_cache_size_tokens"] == "16384"


def test_only_what_was_asked_for_is_there():
    text = (VLLM / "metrics.txt").read_text()
    assert parse(text, ["vllm:num_requests_wait"]).samples("vllm:num_requests_wait") == []
    assert parse(text, ["vllm:num_requests_waiting"]).samples("vllm:num_requests_waiting_by_reason") == []


def test_ranks_add_up():
    metrics = parse((VLLM_DP2 / "metrics.txt").read_text(), ["vllm:prefix_cache_queries_total"])
    values = [sample.value for sample in metrics.samples("vllm:prefix_cache_queries_total")]
    assert metrics.total("vllm:prefix_cache_queries_total") == sum(values)
    assert metrics.label_values("engine", "vllm:prefix_cache_queries_total") == {"0", "1"}


def test_label_order_does_not_matter():
    lines = ['m{a="1",b="2"} 3', 'm{b="2",a="1"} 3']
    (one, other) = (parse(line, ["m"]).samples("m")[0] for line in lines)
    assert one == other


def test_the_first_name_that_exists_is_used():
    metrics = parse("old 5\n", ["new", "old"])
    assert metrics.total("new", "old") == 5
    assert metrics.total("new") is None
    assert metrics.mean("new") is None


def test_labels_with_quotes_and_braces():
    (sample,) = parse('m{path="a\\"}b,c=\\"d"} 1\n', ["m"]).samples("m")
    assert sample.labels == {"path": 'a"}b,c="d'}


def test_values_that_are_not_numbers_are_left_out():
    assert parse("m NaN\nm 2\n", ["m"]).total("m") == 2


def test_large_counters_of_sglang():
    metrics = parse((SGLANG / "metrics-llama.txt").read_text(), ["sglang:prompt_tokens_total"])
    assert metrics.total("sglang:prompt_tokens_total") == 8_128_902


@pytest.mark.parametrize("text", ['m{a="1" 3\n', "m three\n", "m{\n"])
def test_malformed_lines_are_an_error(text):
    with pytest.raises(MetricsError, match="not Prometheus text"):
        parse(text, ["m"])


def test_malformed_lines_of_others_do_not_matter():
    assert parse("other three\nm 1\n", ["m"]).total("m") == 1
