"""An attempt that is given up from outside, at any moment."""

from __future__ import annotations

import asyncio

import pytest

from thunderagent_core.server.attempt import AbandonedError, Attempt


async def trying(among, replaceable, work):
    with Attempt(among, replaceable):
        return await work


def yes():
    return True


def no():
    return False


async def begun(among, replaceable=yes):
    """Start an attempt that waits, and return its task."""
    task = asyncio.create_task(trying(among, replaceable, asyncio.Event().wait()))
    await asyncio.sleep(0)
    [attempt] = among
    return task, attempt


async def test_giving_up_raises_its_own_error_and_leaves_the_task_uncancelled():
    among = set()

    async def request():
        with pytest.raises(AbandonedError):
            await trying(among, yes, asyncio.Event().wait())
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)  # it can go on waiting for other things
        return "elsewhere"

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    [attempt] = among
    attempt.engine_lost()
    attempt.engine_lost()
    assert await task == "elsewhere"
    assert among == set()


async def test_what_cannot_be_replaced_goes_on():
    among = set()
    task, attempt = await begun(among, no)
    attempt.engine_lost()
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert among == set()


@pytest.mark.parametrize("first", ["engine", "client"])
async def test_a_client_that_leaves_at_the_same_moment_has_left(first):
    among = set()
    task, attempt = await begun(among)
    for who in (first, "client" if first == "engine" else "engine"):
        task.cancel() if who == "client" else attempt.engine_lost()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_answer_that_arrives_at_the_same_moment_is_not_begun():
    """Nothing may get out once the request is to go elsewhere."""
    among, answered, out = set(), asyncio.Event(), []

    async def work():
        await answered.wait()
        out.append("begun")

    task = asyncio.create_task(trying(among, yes, work()))
    await asyncio.sleep(0)
    [attempt] = among
    answered.set()
    attempt.engine_lost()
    with pytest.raises(AbandonedError):
        await task
    assert out == []


async def test_other_errors_pass():
    async def work():
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await trying(set(), yes, work())
