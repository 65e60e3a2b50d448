"""Whatever happens to the engine model, nothing is lost, counted twice or decided by chance."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from simulated_helpers import make_model, request

from thunderagent_core.engines.simulated.events import AllBlocksCleared, BlockStored
from thunderagent_core.engines.simulated.requests import PromptTooLongError

SIZE = 4
alike = st.builds(lambda same, other: [0] * same + [1] * other, st.integers(0, 36), st.integers(1, 8))
prompts = alike | st.lists(st.integers(0, 1), min_size=1, max_size=40)


def make():
    return make_model(num_blocks=13, block_tokens=SIZE, max_num_batched_tokens=16, max_num_seqs=4)


class EngineMachine(RuleBasedStateMachine):
    """Requests with much in common on a pool of 12 blocks: sharing, eviction and preemption all happen."""

    def __init__(self):
        super().__init__()
        self.model = make()
        self.asked: dict[str, int] = {}
        self.got: dict[str, list[int]] = {}
        self.ended: Counter[str] = Counter()
        self.cached: Counter[int] = Counter()
        self.now = 0.0

    @rule(prompt=prompts, output=st.integers(1, 20))
    def submit(self, prompt, output):
        name = str(len(self.asked))
        try:
            self.model.submit(request(name, prompt, output), self.now)
        except PromptTooLongError:
            assert len(prompt) >= self.model.limits.max_model_len
            return
        self.asked[name] = min(output, self.model.limits.max_model_len - len(prompt))
        self.got[name] = []

    @rule()
    @precondition(lambda self: self.model.step is None)
    def start(self):
        step = self.model.start_step(self.now)
        assert (step is None) == (self.model.num_running == 0)
        assert step is not None or self.model.num_waiting == 0, "an idle engine leaves nobody waiting"
        if step is not None:
            load = step.load
            assert 0 < load.prefill_tokens + load.decode_sequences <= self.model.limits.max_num_batched_tokens

    @rule()
    @precondition(lambda self: self.model.step is not None)
    def finish(self):
        self.now = self.model.step.ends_at
        for output in self.model.finish_step():
            name = output.request_id
            assert not self.ended[name], "nothing comes after the end"
            assert output.index == len(self.got[name])
            assert output.cached_tokens % SIZE == 0
            self.got[name].append(output.token)
            if output.finish_reason is not None:
                self.ended[name] += 1
                assert len(self.got[name]) == self.asked[name]

    @rule(data=st.data())
    @precondition(lambda self: len(self.ended) < len(self.asked))
    def abort(self, data):
        name = data.draw(st.sampled_from(sorted(self.asked.keys() - self.ended.keys())))
        assert self.model.abort(name)
        self.ended[name] += 1

    @rule(reset_running=st.booleans())
    def reset(self, reset_running):
        done = self.model.reset_prefix_cache(reset_running=reset_running)
        assert done or not reset_running
        assert not done or self.model.num_running == 0

    @invariant()
    def state_is_consistent(self):
        self.model.check()
        pool = self.model.pool
        assert pool.free_blocks + pool.used_blocks == pool.usable_blocks
        assert self.model.num_running + self.model.num_waiting == len(self.asked) - self.ended.total()
        assert set(self.ended.values()) <= {1}

    @invariant()
    def events_tell_exactly_what_is_cached(self):
        for event in self.model.take_events():
            if isinstance(event, AllBlocksCleared):
                self.cached.clear()
            elif isinstance(event, BlockStored):
                assert len(event.token_ids) == SIZE * len(event.block_hashes)
                self.cached.update(event.block_hashes)
            else:
                self.cached.subtract(event.block_hashes)
        assert min(self.cached.values(), default=0) >= 0
        assert {digest for digest, copies in self.cached.items() if copies} == self.model.pool.cached_hashes

    def teardown(self):
        while self.model.step is not None or self.model.num_running + self.model.num_waiting:
            if self.model.step is None:
                self.start()
            self.finish()
        self.state_is_consistent()
        assert self.ended.keys() == self.asked.keys(), "every request ends exactly once"
        assert sum(self.model.statistics.finished.values()) == len(self.asked)
        assert self.model.pool.used_blocks == 0


EngineMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEngineMachine = EngineMachine.TestCase


def run_all(model, prompts, *, at_once):
    outputs, events, now = [], [], 0.0
    for number, prompt in enumerate(prompts):
        model.submit(request(str(number), prompt, 3), now)
        while not at_once or number == len(prompts) - 1:
            step = model.start_step(now)
            if step is None:
                break
            now = step.ends_at
            outputs += model.finish_step()
            events += model.take_events()
    return outputs, events, now


@given(st.lists(prompts, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_without_eviction_the_cached_prefix_is_the_longest_one_seen(prompts):
    model = make_model(num_blocks=400, block_tokens=SIZE)
    outputs, _, _ = run_all(model, prompts, at_once=False)
    cached = {output.request_id: output.cached_tokens for output in outputs}
    computed = [[*prompt, 1000, 1001] for prompt in prompts]  # the last of 3 tokens is never fed back
    for number, prompt in enumerate(prompts):
        common = [sum(1 for _ in takewhile(all_equal, zip(prompt, old, strict=False))) for old in computed[:number]]
        best = max((length // SIZE * SIZE for length in common), default=0)
        assert cached[str(number)] == min(best, (len(prompt) - 1) // SIZE * SIZE)


@given(st.lists(prompts, min_size=1, max_size=10), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_same_requests_give_the_same_tokens_times_and_events(prompts, at_once):
    assert run_all(make(), prompts, at_once=at_once) == run_all(make(), prompts, at_once=at_once)


def all_equal(pair):
    return pair[0] == pair[1]
