"""Closed-loop agents on the bare engine model: each waits for its answer, runs a tool, and asks again."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thunderagent_core.engines.simulated.requests import EngineRequest

if TYPE_CHECKING:
    from thunderagent_core.engines.simulated.model import EngineModel


@dataclass
class Agent:
    number: int
    context: list[int]
    turns: int = 0
    output: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    steps_per_minute: float
    hit_rate: float
    preemptions: int
    longest_context: int


class ClosedLoop:
    """``programs`` agents of ``turns`` turns, at most ``at_once`` of them admitted at a time.

    Contexts grow from 300-500 tokens to about 2,400; tools take 2 s, exponentially distributed.
    """

    def __init__(self, model: EngineModel, *, programs=24, turns=8, at_once=None, seed=1):
        self.model = model
        self.random = random.Random(seed)
        self.turns = turns
        self.waiting = list(range(programs))
        self.agents: dict[int, Agent] = {}
        self.due: list[tuple[float, int]] = []
        self.answered = 0
        for _ in range(at_once or programs):
            self.admit(0.0)

    def fresh(self, low, high):
        return [self.random.randrange(1 << 30) for _ in range(self.random.randint(low, high))]

    def admit(self, now):
        number = self.waiting.pop(0)
        self.agents[number] = Agent(number, self.fresh(300, 500))
        heapq.heappush(self.due, (now, number))

    def ask(self, now):
        while self.due and self.due[0][0] <= now:
            agent = self.agents[heapq.heappop(self.due)[1]]
            agent.output = self.fresh(24, 64)
            self.model.submit(EngineRequest(str(agent.number), agent.context, agent.output), now)

    def answer(self, agent, now):
        self.answered += 1
        agent.turns += 1
        agent.context = agent.context + agent.output + self.fresh(140, 260)
        if agent.turns < self.turns:
            heapq.heappush(self.due, (now + self.random.expovariate(1 / 2.0), agent.number))
        elif self.waiting:
            self.admit(now)

    def run(self) -> Result:
        now = 0.0
        while True:
            self.ask(now)
            step = self.model.start_step(now)
            if step is None:
                if not self.due:
                    break
                now = self.due[0][0]
                continue
            now = step.ends_at
            for output in self.model.finish_step():
                if output.finish_reason is not None:
                    self.answer(self.agents[int(output.request_id)], now)
        self.model.check()
        longest = max(len(agent.context) for agent in self.agents.values())
        figures = self.model.statistics
        return Result(self.answered / now * 60, figures.hit_rate, figures.preemptions, longest)
