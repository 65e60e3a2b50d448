"""What ended leaves nothing behind but a bounded history."""

from __future__ import annotations

import asyncio
import gc

from scripted_engine import die, whole
from server_tools import CHAT, messages, soon, text_of

from thunderagent_core.scheduling.program import Program, Request
from thunderagent_core.server.proxy import Exchange
from thunderagent_core.server.tickets import Ticket


def tables(run) -> dict[str, int]:
    """Count everything that the server and its scheduler keep."""
    state = run.scheduler._state
    [backend] = state.backends.values()
    return {
        "programs": len(state.programs),
        "requests": len(state.requests),
        "queue": len(state.queue) + len(state.queue._lanes),
        "timers": sum(len(timers) for timers in run.scheduler._timers),
        "bound": len(backend.programs) + len(backend.in_flight) + len(backend.marked) + len(backend.victims),
        "counted": len(backend._demand),
        "tickets": len(run.runtime._tickets),
        "attempts": sum(len(each.attempts) for each in run.server.fleet.engines.values()),
        "touched": len(state.touched) + len(state.out),
    }


def alive(*kinds: type) -> int:
    gc.collect()
    return sum(isinstance(thing, kinds) for thing in gc.get_objects())


async def test_five_thousand_short_programs_leave_nothing(engine, serve, raw):
    run = await serve(engine, history_programs=100, trace=None)
    before = alive(Program, Request, Ticket, Exchange)
    numbers = iter(range(5000))

    async def worker() -> None:
        client = await raw(run.port)

        async def post(path: str, **body: object) -> int:
            client.post(path, body)
            return (await client.answer())[0]

        for number in numbers:
            name = f"p{number}"
            if number % 10 == 0:
                assert await post("/programs", program_id=name) == 201
            assert await post(CHAT, **messages(program_id=name, stream=number % 2 == 0)) == 200
            if number % 7 == 0:
                assert await post(f"/programs/{name}/events", type="idle") == 202
            assert await post("/programs/release", program_id=name) == 200

    await asyncio.gather(*(worker() for _ in range(16)))
    await run.idle()
    assert len(engine.seen) == 5000
    engine.seen.clear()
    assert tables(run) == dict.fromkeys(tables(run), 0)
    assert len(run.runtime.ended) == 100
    assert alive(Program, Request, Ticket, Exchange) <= before
    assert len(run.runtime.outcomes) + len(run.runtime.decisions) < 20
    assert (await run.release("p4999")).json()["released"] is False
    assert (await run.release("p1")).status_code == 404, "its end has been forgotten"


async def test_failures_leave_nothing_either(engine_factory, serve):
    engine = await engine_factory(capacity_tokens=1000)
    run = await serve(engine, idle_lease_s=0.2, trace=None)
    for number in range(60):
        engine.reply = die if number % 2 else whole(404, b"{}")
        await run.chat(f"p{number}", text_of(10), stream=number % 3 == 0)
        call = run.asking(f"gone{number}")
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await run.chat(f"large{number}", text_of(5000))
    await run.idle()
    await soon(lambda: not run.scheduler.programs)
    assert tables(run) == dict.fromkeys(tables(run), 0)


async def test_history_can_be_switched_off(engine, serve):
    run = await serve(engine, history_programs=0)
    await run.chat("p")
    assert (await run.release("p")).json()["released"] is True
    assert (await run.release("p")).status_code == 404
    assert run.runtime.ended == {}
