"""Everything at once: engines die and come back, are drained and added, clients leave, programs are released.

What is checked is in the fixture that every test here uses: each request that arrived ended exactly once, nothing is
left open, what is derived equals what a count from scratch gives, nothing was forwarded past where its program is
bound, and the trace replays to the same decisions.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from scripted_engine import JSON, ScriptedEngine, answer, delta, die, die_after, die_in_whole, whole
from server_tools import CHAT, Running, messages, text_of

ROUNDS = 400
"""After so many accidents there is peace, so that the agents reach their end on any machine."""


class Chaos:
    """Agents that never give up, among engines that do."""

    def __init__(self, run: Running, engines: list[ScriptedEngine], seed: int) -> None:
        self.run = run
        self.engines = engines
        self.dice = random.Random(seed)
        self.statuses: set[int] = set()
        self.bodies: list[bytes] = []
        self.over = False

    async def reply(self, engine, request, respond) -> None:
        """Answer, mostly."""
        await asyncio.sleep(self.dice.random() * 0.01)
        streams = b'"stream":true' in request.body
        broken = [die, die_after(delta("x"))] if streams else [die, die_in_whole(b"{")]
        refused = [whole(503, b"{}"), whole(404, b"{}", JSON), whole(500, b"{}")]
        chosen = self.dice.choices([answer, *broken, *refused], [20, 1, 1, 1, 1, 1])[0]
        await chosen(engine, request, respond)

    async def agent(self, name: str) -> None:
        """Take four turns, each until it succeeds, then mostly say goodbye."""
        for turn in range(4):
            calls = [self.until_answered(name, 50 + 150 * turn) for _ in range(self.dice.choice([1, 1, 3]))]
            await asyncio.gather(*calls)
            if self.dice.random() < 0.1:
                await self.run.release(name)
        if self.dice.random() < 0.7:
            await self.run.release(name)

    async def until_answered(self, name: str, tokens: int) -> None:
        body = {**messages(text_of(tokens)), "program_id": name, "stream": self.dice.random() < 0.5}
        while True:
            headers = {"x-stainless-read-timeout": "0.3"} if self.dice.random() < 0.2 else {}
            call = asyncio.ensure_future(self.run.client.post(CHAT, json=body, headers=headers))
            if self.dice.random() < 0.1:
                await asyncio.sleep(self.dice.random() * 0.02)
                call.cancel()
            [outcome] = await asyncio.gather(call, return_exceptions=True)
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, asyncio.CancelledError), outcome
                continue
            self.statuses.add(outcome.status_code)
            self.bodies.append(outcome.content)
            if outcome.status_code == 200:
                return
            await asyncio.sleep(0.02)

    async def trouble(self) -> None:
        """Stop, start, drain and add engines until all agents are done, or often enough."""
        for _ in range(ROUNDS):
            if self.over:
                break
            engine = self.dice.choice(self.engines)
            match self.dice.randrange(4):
                case 0:
                    await engine.stop()
                case 1:
                    await self.run.client.delete(f"/backends/{engine.id}")
                case _:
                    if engine.http is None:
                        await engine.start()
                    await self.run.client.post("/backends", json={"url": engine.url})
            self.run.scheduler.check()
            await asyncio.sleep(0.02)
        await self.peace()

    async def peace(self) -> None:
        """Start every engine and add it."""
        for engine in self.engines:
            if engine.http is None:
                await engine.start()
            while not (await self.run.client.post("/backends", json={"url": engine.url})).is_success:
                await asyncio.sleep(0.02)  # the server tells nobody when an engine has drained


@pytest.mark.parametrize("seed", [11, 12, 13])
async def test_nothing_is_lost_whatever_happens(engine_factory, serve, seed, caplog):
    engines = [await engine_factory(capacity_tokens=3000) for _ in range(3)]
    run = await serve(*engines, decay_interval_s=0.05, tick_s=0.02, max_wait_s=2.0, idle_lease_s=1.0)
    chaos = Chaos(run, engines, seed)
    for engine in engines:
        engine.reply = chaos.reply
    trouble = asyncio.create_task(chaos.trouble())
    async with asyncio.timeout(300):
        await asyncio.gather(*(chaos.agent(f"agent-{number}") for number in range(30)))
        chaos.over = True
        await trouble
    assert 200 in chaos.statuses
    assert chaos.statuses <= {200, 404, 410, 500, 503}
    assert not any(b"internal_error" in body for body in chaos.bodies)
    assert "handler failed" not in caplog.text
    assert "is a bug" not in caplog.text
    for engine in engines:
        engine.reply = answer
    async with asyncio.timeout(120):
        while (await run.chat("afterwards")).status_code != 200:
            await asyncio.sleep(0.05)
