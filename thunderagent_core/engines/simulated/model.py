"""The engine as pure state: continuous batching, chunked prefill, prefix cache, preemption. No IO, no clock.

Follows the scheduler of vLLM 0.32 (``vllm/v1/core/sched/scheduler.py``, first come first served): each step
gives tokens of its budget to the running requests in the order of their admission, then admits waiting ones
while budget, seats and blocks last. A request is admitted only if its whole known sequence fits; when a
running one finds no block, the newest running request is thrown back to the head of the queue. Blocks
become reusable when they are scheduled.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thunderagent_core.engines.simulated.blocks import Block, BlockPool
from thunderagent_core.engines.simulated.hashing import extend_hashes
from thunderagent_core.engines.simulated.requests import (
    DuplicateRequestError,
    EngineRequest,
    FinishReason,
    PromptTooLongError,
    RunningSequence,
    TokenOutput,
)
from thunderagent_core.engines.simulated.statistics import Statistics
from thunderagent_core.engines.simulated.timing import Coefficients, StepLoad, attention_pairs

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.events import KvEvent
    from thunderagent_core.engines.simulated.limits import EngineLimits


@dataclass(frozen=True, slots=True)
class Step:
    """A step in progress: ``finish_step`` is due at ``ends_at`` (seconds, same clock as every ``now``)."""

    starts_at: float
    ends_at: float
    load: StepLoad


class EngineModel:
    """One engine. Call ``start_step``, wait until the step ends, call ``finish_step``, and so on.

    Args:
        limits: the engine's sizes.
        coefficients: cost of a step.
        record_events: whether to keep KV events for ``take_events``.
    """

    def __init__(self, limits: EngineLimits, coefficients: Coefficients, *, record_events: bool = False) -> None:
        self.limits = limits
        self.coefficients = coefficients
        self.pool = BlockPool(limits.num_blocks, limits.block_tokens, record_events=record_events)
        self.statistics = Statistics()
        self._waiting: deque[RunningSequence] = deque()
        self._running: list[RunningSequence] = []
        self._by_id: dict[str, RunningSequence] = {}
        self._step: Step | None = None
        self._scheduled: dict[str, int] = {}

    @property
    def num_running(self) -> int:
        """Requests that hold a seat in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for admission, preempted ones included."""
        return len(self._waiting)

    @property
    def step(self) -> Step | None:
        """The step in progress, if any."""
        return self._step

    def submit(self, request: EngineRequest, now: float) -> None:
        """Queue a request.

        Raises PromptTooLongError where no token of output would fit the context, DuplicateRequestError
        where the id is in use, and ValueError where there is no prompt or no output.
        """
        if request.request_id in self._by_id:
            raise DuplicateRequestError(request.request_id)
        if not request.prompt or not request.output:
            raise ValueError("a request needs at least one token of prompt and one of output")
        if len(request.prompt) >= self.limits.max_model_len:
            raise PromptTooLongError(len(request.prompt), self.limits.max_model_len)
        sequence = RunningSequence(request, list(request.prompt), now)
        extend_hashes(sequence.hashes, sequence.tokens, self.limits.block_tokens)
        self._by_id[request.request_id] = sequence
        self._waiting.append(sequence)

    def abort(self, request_id: str) -> bool:
        """End a request now; its blocks are free at once and stay reusable. False where it is not here."""
        sequence = self._by_id.get(request_id)
        if sequence is None:
            return False
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._end(sequence, "abort")
        return True

    def start_step(self, now: float) -> Step | None:
        """Schedule the next step; None where nothing is to be computed. Raises RuntimeError during a step."""
        if self._step is not None:
            raise RuntimeError("the previous step has not been finished")
        budget, preempted = self._schedule_running(self.limits.max_num_batched_tokens)
        if not preempted:
            self._admit(budget)
        if not self._scheduled:
            return None
        load = self._load()
        self._step = Step(now, now + self.coefficients.step_s(load), load)
        self.statistics.prefilled_tokens += load.prefill_tokens
        return self._step

    def finish_step(self) -> list[TokenOutput]:
        """End the step in progress and return the tokens it generated. Raises RuntimeError outside a step."""
        if self._step is None:
            raise RuntimeError("no step is in progress")
        self.statistics.steps += 1
        self.statistics.busy_s += self._step.ends_at - self._step.starts_at
        scheduled, self._scheduled, self._step = self._scheduled, {}, None
        outputs: list[TokenOutput] = []
        for request_id, count in scheduled.items():
            sequence = self._by_id.get(request_id)
            if sequence is not None and sequence.blocks:  # else aborted or thrown back while the step ran
                sequence.computed += count
                if not sequence.missing:
                    outputs.append(self._generate(sequence))
        return outputs

    def reset_prefix_cache(self, *, reset_running: bool = False) -> bool:
        """Forget all cached content. False while requests run, unless ``reset_running`` preempts them."""
        if reset_running:
            while self._running:
                self._preempt(self._running.pop())
        return self.pool.reset()

    def take_events(self) -> list[KvEvent]:
        """Return the KV events since the last call, oldest first."""
        return self.pool.take_events()

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself (for tests)."""
        self.pool.check()
        sequences = [*self._running, *self._waiting]
        if sorted(map(id, sequences)) != sorted(map(id, self._by_id.values())):
            raise AssertionError("the queues and the index hold different requests")
        if any(sequence.blocks for sequence in self._waiting):
            raise AssertionError("a waiting request holds blocks")
        held = Counter(block.index for sequence in self._running for block in sequence.blocks)
        if len(held) != self.pool.used_blocks:
            raise AssertionError("blocks are held by nobody")
        for sequence in self._running:
            if any(block.references != held[block.index] for block in sequence.blocks):
                raise AssertionError(f"{sequence.request.request_id} holds a block with a wrong count")

    def _schedule_running(self, budget: int) -> tuple[int, bool]:
        """Give budget to the running requests; return what is left, and whether one had to be thrown back."""
        preempted = False
        position = 0
        while position < len(self._running) and budget > 0:
            sequence = self._running[position]
            count = min(sequence.missing, budget)
            while not self._grow(sequence, count):
                victim = self._running.pop()
                self._preempt(victim)
                preempted = True
                if victim is sequence:
                    return budget, preempted
            self._scheduled[sequence.request.request_id] = count
            budget -= count
            position += 1
        return budget, preempted

    def _admit(self, budget: int) -> None:
        """Admit waiting requests in order, until the first that does not fit."""
        while self._waiting and budget > 0 and len(self._running) < self.limits.max_num_seqs:
            sequence = self._waiting[0]
            # At least the last token is computed anew: it yields the first token of output.
            reusable = self.pool.find_prefix(sequence.hashes, (len(sequence.tokens) - 1) // self.limits.block_tokens)
            new_blocks = self._blocks_for(len(sequence.tokens)) - len(reusable)
            if self.pool.blocks_taken_by(new_blocks, reusable) > self.pool.free_blocks:
                return
            self._waiting.popleft()
            self._running.append(sequence)
            self._reuse(sequence, reusable)
            count = min(sequence.missing, budget)
            self._grow(sequence, count)
            self._scheduled[sequence.request.request_id] = count
            budget -= count

    def _reuse(self, sequence: RunningSequence, blocks: list[Block]) -> None:
        self.pool.touch(blocks)
        sequence.blocks = blocks
        sequence.stored = len(blocks)
        sequence.computed = len(blocks) * self.limits.block_tokens
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            self.statistics.prefix_cache_queries += len(sequence.tokens)
            self.statistics.prefix_cache_hits += sequence.computed

    def _grow(self, sequence: RunningSequence, count: int) -> bool:
        """Make room for ``count`` more computed tokens; False where the pool has none."""
        reach = sequence.computed + count
        wanted = self._blocks_for(reach) - len(sequence.blocks)
        if wanted > self.pool.free_blocks:
            return False
        sequence.blocks.extend(self.pool.allocate(wanted))
        first, full = sequence.stored, reach // self.limits.block_tokens
        if full > first:
            size = self.limits.block_tokens
            self.pool.store(
                sequence.blocks[first:full],
                sequence.hashes[first:full],
                sequence.hashes[first - 1] if first else None,
                sequence.tokens[first * size : full * size],
                sequence.request.session_id,
            )
            sequence.stored = full
        return True

    def _preempt(self, sequence: RunningSequence) -> None:
        self.pool.free(sequence.drop_blocks())
        self._scheduled.pop(sequence.request.request_id, None)
        sequence.preemptions += 1
        self.statistics.preemptions += 1
        self._waiting.appendleft(sequence)

    def _generate(self, sequence: RunningSequence) -> TokenOutput:
        """Append the next token of the decided output, and end the request where it was the last."""
        request, index = sequence.request, sequence.generated
        cached = sequence.cached_tokens or 0
        if index == 0:
            self.statistics.prompt_tokens += len(request.prompt)
            self.statistics.prompt_tokens_cached += cached
        token = request.output[index]
        sequence.tokens.append(token)
        self.statistics.generation_tokens += 1
        reason: FinishReason | None = None
        if index + 1 == len(request.output):
            reason = request.finish_reason
        elif len(sequence.tokens) >= self.limits.max_model_len:
            reason = "length"
        if reason is None:
            extend_hashes(sequence.hashes, sequence.tokens, self.limits.block_tokens)
        else:
            self._running.remove(sequence)
            self._end(sequence, reason)
        return TokenOutput(request.request_id, index, token, cached, reason)

    def _end(self, sequence: RunningSequence, reason: FinishReason) -> None:
        self.pool.free(sequence.drop_blocks())
        self._scheduled.pop(sequence.request.request_id, None)
        del self._by_id[sequence.request.request_id]
        self.statistics.count_end(reason)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_tokens)

    def _load(self) -> StepLoad:
        prefill = decode = pairs = 0
        for request_id, count in self._scheduled.items():
            sequence = self._by_id[request_id]
            if sequence.decoding:
                decode += 1
            else:
                prefill += count
            pairs += attention_pairs(sequence.computed, count)
        return StepLoad(prefill, decode, pairs)
