"""The "smollm2-cpu" preset against what was measured on the real engine (docs/simulated-engine.md)."""

from __future__ import annotations

import pytest
from simulated_helpers import request
from simulated_loop import ClosedLoop

from thunderagent_core.engines.simulated.limits import EngineLimits
from thunderagent_core.engines.simulated.model import EngineModel
from thunderagent_core.engines.simulated.timing import Coefficients, StepLoad, attention_pairs, presets


def smollm2(num_blocks=512):
    limits = EngineLimits(num_blocks, 32, max_model_len=8192, max_num_seqs=64)
    return EngineModel(limits, presets()["smollm2-cpu"])


def run(model):
    now = 0.0
    while (step := model.start_step(now)) is not None:
        now = step.ends_at
        model.finish_step()
    return now


@pytest.mark.parametrize(("requests", "measured"), [(1, 29), (4, 77), (8, 135), (16, 183)])
def test_decode_speed(requests, measured):
    model = smollm2()
    tokens = 100
    for number in range(requests):
        model.submit(request(str(number), [number], tokens), 0.0)
    assert requests * tokens / run(model) == pytest.approx(measured, rel=0.12)


@pytest.mark.parametrize(("prompt_tokens", "seconds"), [(1000, 1000 / 2000), (2000, 2000 / 2000), (4952, 3.75)])
def test_prefill_speed(prompt_tokens, seconds):
    model = smollm2()
    model.submit(request("a", range(prompt_tokens), 1), 0.0)
    assert run(model) == pytest.approx(seconds, rel=0.15)


def test_a_cached_prompt_is_as_quick_as_measured():
    model = smollm2()
    model.submit(request("a", range(4952), 1), 0.0)
    run(model)
    model.submit(request("b", range(4952), 1), 0.0)
    assert run(model) == pytest.approx(0.10, abs=0.05)


@pytest.mark.parametrize("seed", [1, 2])
def test_24_programs_thrash_a_pool_of_16384_tokens(seed):
    plain = ClosedLoop(smollm2(), seed=seed).run()
    assert plain.longest_context == pytest.approx(2400, rel=0.15)
    assert plain.hit_rate < 0.15, "measured: 0.10 and 0.11"
    assert plain.steps_per_minute == pytest.approx(70, rel=0.2), "measured: 63 and 77"

    some = ClosedLoop(smollm2(), seed=seed, at_once=8).run()
    assert some.hit_rate == pytest.approx(0.82, abs=0.06)
    assert some.steps_per_minute > 1.2 * plain.steps_per_minute

    bound = ClosedLoop(smollm2(num_blocks=4096), seed=seed).run()
    assert bound.hit_rate == pytest.approx(0.81, abs=0.04)
    assert bound.steps_per_minute == pytest.approx(167, rel=0.15)


def test_step_cost_is_the_sum_of_its_parts():
    load = StepLoad(prefill_tokens=2000, decode_sequences=3, attention_pairs=4_000_000)
    assert Coefficients(10, 100, 2, 5).step_s(load) == pytest.approx((10 + 200 + 6 + 20) / 1000)
    assert attention_pairs(10, 3) == 11 + 12 + 13
