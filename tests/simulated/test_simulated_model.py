"""The engine model tells vLLM's story: batching, chunked prefill, prefix reuse, preemption, abort."""

from __future__ import annotations

import pytest
from simulated_helpers import make_model, request

from thunderagent_core.engines.simulated.limits import EngineLimits
from thunderagent_core.engines.simulated.requests import (
    DuplicateRequestError,
    PromptTooLongError,
)


def run(model, until=lambda outputs: False):
    """Step until idle (or until a step's outputs please ``until``); return all outputs and the time."""
    now, outputs = 0.0, []
    while (step := model.start_step(now)) is not None:
        now = step.ends_at
        generated = model.finish_step()
        outputs += generated
        model.check()
        if until(generated):
            break
    return outputs, now


def test_a_request_yields_its_output_in_order_and_ends_once(model):
    model.submit(request("a", range(10), output=5, finish_reason="stop"), 0.0)
    outputs, _ = run(model)
    assert [(o.index, o.token, o.finish_reason) for o in outputs] == [
        (0, 1000, None),
        (1, 1001, None),
        (2, 1002, None),
        (3, 1003, None),
        (4, 1004, "stop"),
    ]
    figures = model.statistics
    assert (figures.prompt_tokens, figures.generation_tokens, figures.finished) == (10, 5, {"stop": 1})
    assert figures.prefilled_tokens == 10
    assert model.pool.used_blocks == 0


def test_the_next_turn_finds_the_previous_one_with_its_answer(model):
    model.submit(request("a", range(10), output=5), 0.0)
    run(model)
    answer = [1000 + i for i in range(5)]
    model.submit(request("b", [*range(10), *answer, 77, 78]), 0.0)
    outputs, _ = run(model)
    # 10 + 4 tokens had been computed (the last one is never fed back): 3 full blocks of 4.
    assert outputs[0].cached_tokens == 12
    assert model.statistics.prefix_cache_queries == 10 + 17
    assert model.statistics.prefix_cache_hits == 12
    assert model.statistics.prompt_tokens_cached == 12


def test_a_prompt_that_is_cached_whole_still_computes_its_last_block(model):
    for name in "ab":
        model.submit(request(name, range(8)), 0.0)
        outputs, _ = run(model)
    assert outputs[0].cached_tokens == 4


def test_two_requests_with_one_prefix_share_its_blocks_while_they_run(model):
    model.submit(request("a", range(16)), 0.0)
    model.submit(request("b", [*range(12), 90, 91, 92, 93]), 0.0)
    model.start_step(0.0)
    assert model.pool.used_blocks == 5, "three are shared, and each has its own last block"
    model.finish_step()
    outputs, _ = run(model)
    assert {o.request_id: o.cached_tokens for o in outputs} == {"a": 0, "b": 12}


def test_a_long_prompt_is_prefilled_in_chunks_while_others_decode():
    model = make_model(max_num_batched_tokens=20)
    model.submit(request("a", range(4), output=9), 0.0)
    model.start_step(0.0)
    model.finish_step()
    model.submit(request("long", range(100, 150)), 0.0)
    loads = []
    while (step := model.start_step(0.0)) is not None:
        loads.append((step.load.decode_sequences, step.load.prefill_tokens))
        model.finish_step()
    assert loads[:4] == [(1, 19), (1, 19), (1, 12), (2, 0)]


def test_no_more_requests_run_than_there_are_seats():
    model = make_model(max_num_seqs=2)
    for name in "abc":
        model.submit(request(name, range(4)), 0.0)
    model.start_step(0.0)
    assert (model.num_running, model.num_waiting) == (2, 1)


def test_admission_is_in_order_and_waits_for_the_whole_prompt_to_fit():
    model = make_model(num_blocks=9)
    model.submit(request("a", range(20), output=12), 0.0)
    model.submit(request("big", range(100, 120)), 0.0)
    model.submit(request("small", range(200, 204)), 0.0)
    model.start_step(0.0)
    assert (model.num_running, model.num_waiting) == (1, 2), "nobody overtakes the one that does not fit"
    model.finish_step()
    outputs, _ = run(model)
    ends = [o.request_id for o in outputs if o.finish_reason]
    assert sorted(ends) == ["a", "big", "small"]


def test_the_newest_request_is_thrown_back_when_the_pool_is_full_and_loses_nothing():
    model = make_model(num_blocks=9)  # 8 usable blocks
    model.submit(request("old", range(12), output=12), 0.0)
    model.submit(request("new", range(100, 112), output=12), 0.0)
    outputs, _ = run(model)
    assert model.statistics.preemptions >= 1
    for name in ("old", "new"):
        own = [o for o in outputs if o.request_id == name]
        assert [o.token for o in own] == [1000 + i for i in range(12)]
        assert [o.finish_reason for o in own] == [None] * 11 + ["length"]
    last = {o.request_id: position for position, o in enumerate(outputs)}
    assert last["old"] < last["new"]
    assert model.statistics.prefix_cache_queries == 24, "the look-up after a preemption does not count"
    assert model.statistics.prefilled_tokens > 24, "what was thrown back is computed again"


def test_an_abort_frees_blocks_at_once_and_leaves_them_reusable(model):
    model.submit(request("a", range(16), output=50), 0.0)
    model.submit(request("waiting", range(16), output=50), 0.0)
    model.start_step(0.0)
    assert model.abort("a")
    assert not model.abort("a")
    assert model.finish_step()[0].request_id == "waiting", "the step goes on without the aborted one"
    assert model.abort("waiting")
    assert model.pool.used_blocks == 0
    assert model.start_step(0.0) is None
    model.submit(request("again", range(16)), 0.0)
    outputs, _ = run(model)
    assert outputs[0].cached_tokens == 12
    assert model.statistics.finished == {"abort": 2, "length": 1}


def test_generation_stops_at_the_end_of_the_context():
    model = make_model(max_model_len=20)
    model.submit(request("a", range(16), output=50, finish_reason="stop"), 0.0)
    outputs, _ = run(model)
    assert len(outputs) == 4
    assert outputs[-1].finish_reason == "length"


def test_a_prompt_without_room_for_output_is_refused(model):
    with pytest.raises(PromptTooLongError):
        model.submit(request("a", range(128)), 0.0)
    model.submit(request("a", range(127)), 0.0)
    with pytest.raises(DuplicateRequestError):
        model.submit(request("a", range(3)), 0.0)
    with pytest.raises(ValueError, match="at least one"):
        model.submit(request("b", []), 0.0)


def test_steps_cannot_overlap(model):
    model.submit(request("a", range(3)), 0.0)
    model.start_step(0.0)
    with pytest.raises(RuntimeError):
        model.start_step(0.0)
    model.finish_step()
    with pytest.raises(RuntimeError):
        model.finish_step()


def test_reset_forgets_everything_and_running_requests_start_again(model):
    model.submit(request("a", range(16), output=4), 0.0)
    model.start_step(0.0)
    assert not model.reset_prefix_cache()
    assert model.reset_prefix_cache(reset_running=True)
    assert model.finish_step() == []
    outputs, _ = run(model)
    assert [o.finish_reason for o in outputs] == [None, None, None, "length"]
    assert model.reset_prefix_cache()
    model.submit(request("b", range(16)), 0.0)
    assert run(model)[0][0].cached_tokens == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"max_model_len": 129}, "must not exceed the 128 tokens"),
        ({"max_num_seqs": 65}, "must not be less than max_num_seqs"),
        ({"max_model_len": 0}, "max_model_len must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        EngineLimits(
            **{
                "num_blocks": 33,
                "block_tokens": 4,
                "max_model_len": 128,
                "max_num_batched_tokens": 64,
                "max_num_seqs": 8,
            }
            | sizes
        )
