"""How fast the engine prefills and decodes, fitted to the cost models that vllm-router asks its operators to measure.

Cold prompts of several lengths give the prefill model, answers at several batch sizes and context lengths, over a warm
prefix, give the decode model. Coefficients are not negative.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.demo.requests import stream_chat
from thunderagent_core.demo.workload import Workload, system_prompt
from thunderagent_core.transport.client import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.closed_loop.engine import Engine

PREFILL_TOKENS: Final = (250, 500, 1000, 2000, 4000)
PREFILL_ROUNDS: Final = 2
DECODE_BATCHES: Final = (1, 4, 8, 16)
DECODE_TOKENS: Final = 24
POOL_SHARE: Final = 0.8
"""Part of the KV pool that the largest batch with long contexts takes."""

SHORT_TOKENS: Final = 64
_TINY: Final = 1e-6
_EPSILON: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Calibration:
    """Coefficients in seconds of our clock.

    ``x`` being thousands of uncached prompt tokens, a prefill takes ``prefill_fixed_s + prefill_linear_s x +
    prefill_quadratic_s x²``. With B requests over C context tokens a decode step takes ``step_fixed_s +
    step_request_s B + step_token_s C``.
    """

    prefill_fixed_s: float
    prefill_linear_s: float
    prefill_quadratic_s: float
    step_fixed_s: float
    step_request_s: float
    step_token_s: float


async def calibrate(engine: Engine) -> Calibration:
    """Measure the engine. Raises RequestFailedError where it does not answer."""
    pool = ConnectionPool(engine.url, max_idle=max(DECODE_BATCHES))
    try:
        prober = _Prober(pool, engine)
        lengths = [tokens for tokens in PREFILL_TOKENS if tokens < engine.capacity_tokens * POOL_SHARE]
        prefills = [await prober.prefill(tokens) for tokens in lengths * PREFILL_ROUNDS]
        longest = round(engine.capacity_tokens * POOL_SHARE / max(DECODE_BATCHES)) - DECODE_TOKENS
        steps = [
            await prober.decode(batch, tokens)
            for tokens in (SHORT_TOKENS, max(longest, 2 * SHORT_TOKENS))
            for batch in DECODE_BATCHES
        ]
    finally:
        await pool.aclose()
    return fit(prefills, steps)


def fit(prefills: Sequence[tuple[int, float]], steps: Sequence[tuple[int, int, float]]) -> Calibration:
    """Fit the models to (tokens, seconds) of prefills and (batch, context tokens, seconds) of decode steps."""
    thousands = [tokens / 1000 for tokens, _ in prefills]
    prefill = least_squares([[1.0, x, x * x] for x in thousands], [seconds for _, seconds in prefills])
    rows = [[1.0, float(batch), context / 1000] for batch, context, _ in steps]
    step = least_squares(rows, [seconds for *_, seconds in steps])
    return Calibration(
        prefill_fixed_s=prefill[0],
        prefill_linear_s=prefill[1],
        prefill_quadratic_s=prefill[2],
        step_fixed_s=max(step[0], _TINY),  # the router wants it above zero
        step_request_s=step[1],
        step_token_s=step[2] / 1000,
    )


def least_squares(rows: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float]:
    """Return the coefficients, none negative, that come nearest to ``wanted``: the best over all sets of columns."""
    width = len(rows[0])
    best, best_error = [0.0] * width, sum(value * value for value in wanted)
    for size in range(1, width + 1):
        for columns in itertools.combinations(range(width), size):
            solved = _normal_equations(rows, wanted, columns)
            if solved is None or min(solved) < 0:
                continue
            found = [0.0] * width
            for column, value in zip(columns, solved, strict=True):
                found[column] = value
            error = sum((_dot(row, found) - value) ** 2 for row, value in zip(rows, wanted, strict=True))
            if error < best_error:
                best, best_error = found, error
    return best


def _normal_equations(
    rows: Sequence[Sequence[float]], wanted: Sequence[float], columns: Sequence[int]
) -> list[float] | None:
    """Solve least squares for some columns by elimination; None where they depend on each other."""
    system = [
        [sum(row[a] * row[b] for row in rows) for b in columns]
        + [sum(row[a] * value for row, value in zip(rows, wanted, strict=True))]
        for a in columns
    ]
    for index in range(len(system)):
        pivot = max(range(index, len(system)), key=lambda row: abs(system[row][index]))
        system[index], system[pivot] = system[pivot], system[index]
        if abs(system[index][index]) < _EPSILON:
            return None
        for other in range(len(system)):
            if other != index:
                factor = system[other][index] / system[index][index]
                system[other] = [a - factor * b for a, b in zip(system[other], system[index], strict=True)]
    return [row[-1] / row[index] for index, row in enumerate(system)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


class _Prober:
    """Sends single requests and times them. No two prompts share a beginning."""

    def __init__(self, pool: ConnectionPool, engine: Engine) -> None:
        self._pool = pool
        self._engine = engine
        self._random = random.Random("calibration")
        self._sent = itertools.count()

    async def prefill(self, tokens: int) -> tuple[int, float]:
        """Return the size of a cold prompt and the time to its first token."""
        size, first_s, _ = await self._ask(self._text(tokens), 1)
        return size, first_s

    async def decode(self, batch: int, tokens: int) -> tuple[int, int, float]:
        """Return a batch, the tokens of its contexts, and the time of one step."""
        texts = [self._text(tokens) for _ in range(batch)]
        for text in texts:
            await self._ask(text, 1)
        answers = await asyncio.gather(*(self._ask(text, DECODE_TOKENS) for text in texts))
        context = sum(size + DECODE_TOKENS // 2 for size, *_ in answers)
        return batch, context, statistics.median(after_s / (DECODE_TOKENS - 1) for *_, after_s in answers)

    async def _ask(self, text: str, tokens: int) -> tuple[int, float, float]:
        """Return the prompt's size, the time to the first token, and the time from there to the last."""
        body: dict[str, Any] = {
            "model": self._engine.model,
            # As a system message, since without one the model's template begins all prompts alike.
            "messages": [{"role": "system", "content": text}, {"role": "user", "content": "Go on."}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
        headers = [(b"content-type", b"application/json")]
        began = time.perf_counter()
        answer = await stream_chat(self._pool, headers, body, time.perf_counter)
        ended = time.perf_counter()
        first = ended if answer.first_token_at is None else answer.first_token_at
        return answer.usage.prompt_tokens, first - began, ended - first

    def _text(self, tokens: int) -> str:
        seed = self._random.randrange(1 << 30)
        load = Workload(system_tokens=tokens, seed=seed, chars_per_token=self._engine.chars_per_token)
        return f"{next(self._sent)} {system_prompt(load)}"
