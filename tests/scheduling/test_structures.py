"""The ordered structures, each against the dumbest thing that does the same."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderagent_core.scheduling.backend import Backend
from thunderagent_core.scheduling.demand import Decay, DemandTree
from thunderagent_core.scheduling.fleet import Fleet
from thunderagent_core.scheduling.lazy_heap import LazyHeap
from thunderagent_core.scheduling.program import Program, Request
from thunderagent_core.scheduling.queue import Lane, WaitingQueue

names = st.sampled_from("abcdefghijkl")
whole = settings(deadline=None)


# LazyHeap


@whole
@given(st.lists(st.tuples(st.sampled_from(["put", "drop", "pop"]), names, st.integers(0, 5)), max_size=120))
def test_a_lazy_heap_is_a_sorted_list(steps: list[tuple[str, str, int]]) -> None:
    heap: LazyHeap[str] = LazyHeap()
    model: dict[str, tuple[int, int]] = {}
    for number, (what, item, key) in enumerate(steps):
        if what == "put":
            heap.put(item, key)
            if model.get(item, (None,))[0] != key:
                model[item] = (key, number)
        elif what == "drop":
            heap.drop(item)
            model.pop(item, None)
        else:
            due = [other for other, (at, _) in model.items() if at <= key]
            expected = min(due, key=lambda other: model[other], default=None)
            assert heap.pop_due(key) == expected
            model.pop(expected, None)
        smallest = min(model, key=lambda other: model[other], default=None)
        assert heap.first() == (None if smallest is None else (model[smallest][0], smallest))
        assert heap.items() == {other: at for other, (at, _) in model.items()}
        assert len(heap) == len(model)
        assert (item in heap) == (item in model)
        assert heap.key(item) == (model[item][0] if item in model else None)


def test_a_lazy_heap_does_not_grow_with_the_number_of_moves() -> None:
    heap: LazyHeap[int] = LazyHeap()
    for move in range(10_000):
        heap.put(move % 10, -move)
    assert len(heap._heap) <= 2 * len(heap) + 33


def test_a_lazy_heap_that_nobody_asks_forgets_what_is_gone() -> None:
    heap: LazyHeap[int] = LazyHeap()
    for item in range(10_000):
        heap.put(item, -item)
        heap.drop(item)
    assert len(heap._heap) + len(heap._unsorted) + len(heap._entries) == 0


# DemandTree

leaf = st.fixed_dictionaries(
    {},
    optional={
        "reasoning": st.integers(0, 10**9),
        "acting": st.floats(0, 1e12),
        "leaving": st.integers(0, 10**9),
        "shared": st.integers(0, 10**6),
        "shared_acting": st.floats(0, 1e9),
    },
)


@whole
@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.none() | leaf), max_size=80))
def test_a_demand_tree_is_the_sum_of_its_leaves(steps: list[tuple[str, dict[str, float] | None]]) -> None:
    tree, model = DemandTree(), {}
    for key, values in steps:
        if values is None:
            tree.drop(key)
            model.pop(key, None)
        else:
            tree.put(key, **values)
            model[key] = values
        for column in ("reasoning", "leaving"):
            assert getattr(tree, column) == sum(values.get(column, 0) for values in model.values())
        acting = math.fsum(values.get("acting", 0.0) for values in model.values())
        assert tree.acting == pytest.approx(acting, rel=1e-12, abs=0.0)
        fixed = max((values.get("shared", 0) for values in model.values()), default=0)
        decaying = max((values.get("shared_acting", 0.0) for values in model.values()), default=0.0)
        assert (tree.shared_by_reasoning, tree.shared_by_acting) == (fixed, decaying)
        assert tree.shared(0.25) == max(fixed, 0.25 * decaying)
        assert len(tree) == len(model)


def test_a_demand_tree_that_was_emptied_is_exactly_zero() -> None:
    """A counter that adds and subtracts would keep the rounding errors of a thousand programs."""
    tree = DemandTree()
    for number in range(1_000):
        tree.put(f"p{number}", acting=0.1 * number**3, reasoning=number)
    for number in range(1_000):
        tree.drop(f"p{number}")
    assert (tree.acting, tree.reasoning) == (0.0, 0)


# Decay and the moment at which it makes room


@whole
@given(base=st.floats(1.0, 100.0), interval=st.floats(0.01, 1_000.0), at=st.floats(0, 1_000), later=st.floats(0, 1_000))
def test_decay_is_memoryless(base: float, interval: float, at: float, later: float) -> None:
    decay = Decay(base, interval)
    if math.log2(base) * (at + later) / interval < 500:
        assert decay.weight(at) * decay.weight(later) == pytest.approx(decay.weight(at + later), rel=1e-9)
    assert decay.weight(0) == 1.0
    assert 0.0 <= decay.weight(at) <= 1.0


def test_the_papers_decay_halves_each_tick() -> None:
    decay = Decay(2.0, 5.0)
    assert [decay.weight(5.0 * ticks) for ticks in range(4)] == [1.0, 0.5, 0.25, 0.125]


def _backend(base: float, start: float = 0.0, reserve: int = 0) -> Backend:
    return Backend("a", Decay(base, 5.0), reserve, start)


def _program(name: str, tokens: int, since: float, *, requests: int = 0, marked: str | None = None) -> Program:
    program = Program(name, settled_tokens=tokens, phase_since=since, marked=marked)
    for number in range(requests):
        program.requests[str(number)] = Request(f"{name}/{number}", program, None, tokens, 0, since)
    return program


@whole
@given(
    acting=st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 60)), min_size=1, max_size=6),
    reasoning=st.integers(1, 5_000),
    room=st.floats(1, 30_000),
)
def test_time_until_is_when_demand_has_come_down_to_the_room(
    acting: list[tuple[int, float]], reasoning: int, room: float
) -> None:
    backend, now = _backend(2.0), 60.0
    backend.count(_program("r", reasoning, now, requests=1), now)
    for number, (tokens, since) in enumerate(acting):
        backend.count(_program(f"p{number}", tokens, since), now)
    wait = backend.time_until(room, now)
    if backend.used(now) <= room:
        assert wait == 0.0
    elif wait is None:
        assert reasoning >= room, "what reasons does not decay"
    else:
        assert backend.used(now + wait) == pytest.approx(room)
        assert backend.used(now + wait + 0.001) < room < backend.used(now + wait - 0.001) + 1e-9


def test_without_decay_no_time_is_long_enough() -> None:
    backend = _backend(1.0)
    backend.count(_program("p", 100, 0.0), 0.0)
    assert backend.time_until(99.0, 5.0) is None
    assert backend.time_until(100.0, 5.0) == 0.0


@whole
@given(
    start=st.sampled_from([-1e6, 0.0, 1.7e9]),
    steps=st.lists(st.tuples(st.floats(0, 5_000), names, st.integers(1, 10_000)), min_size=1, max_size=40),
)
def test_demand_stays_right_over_any_length_of_time(start: float, steps: list[tuple[float, str, int]]) -> None:
    """Weights are kept relative to an epoch that moves; a move must not show."""
    backend, now, decay = _backend(2.0, start), start, Decay(2.0, 5.0)
    for pause, name, tokens in steps:
        now += pause
        program = _program(name, tokens, now)
        backend.programs[name] = program
        backend.count(program, now)
        expected = sum(p.own_tokens * decay.weight(now - p.phase_since) for p in backend.programs.values())
        assert backend.demand(now) == pytest.approx(expected, rel=1e-9)


def test_what_is_marked_counts_for_restoring_but_not_for_pausing() -> None:
    backend = _backend(2.0, reserve=100)
    backend.count(_program("p", 1_000, 0.0, requests=1), 0.0)
    backend.count(_program("q", 2_000, 0.0, requests=1, marked="thrashing"), 0.0)
    assert (backend.demand(0.0), backend.leaving, backend.used(0.0)) == (1_100, 2_100, 3_200)
    backend.uncount("q")
    assert (backend.demand(0.0), backend.leaving, backend.used(0.0)) == (1_100, 0, 1_100)


# WaitingQueue


def _put(
    queue: WaitingQueue,
    name: str,
    score: float,
    *,
    now: float = 0.0,
    since: float = 0.0,
    model: str | None = None,
    priority: int = 0,
    alone: bool = False,
) -> None:
    program = Program(name, waiting_since=since, priority=priority)
    queue.put(program, model, score, now, alone=alone)


def _lanes(queue: WaitingQueue) -> list[Lane]:
    return [lane for _, _, lane in sorted(queue.heads(), key=lambda head: head[:2])]


@whole
@given(st.lists(st.tuples(names, st.floats(0, 100), st.integers(-1, 1), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_queue_orders_by_age_then_priority_then_score(entries: list[tuple[str, float, int, int]]) -> None:
    queue, now, model = WaitingQueue(age_s=50.0), 100.0, {}
    for number, (name, since, priority, score) in enumerate(entries):
        _put(queue, name, float(score), now=now, since=since, priority=priority)
        key = (0, 0, since) if now - since >= 50 else (1, priority, float(score))
        if model.get(name, (None,))[0] != key:
            model[name] = (key, number)
    served = []
    while lanes := _lanes(queue):
        name = lanes[0].waiting.first()[1]
        served.append(name)
        queue.drop(name)
    assert served == sorted(model, key=lambda name: model[name])
    assert len(queue) == 0


def test_each_model_has_a_lane_and_an_empty_lane_goes() -> None:
    queue = WaitingQueue(age_s=50.0)
    _put(queue, "p", 2.0, model="small")
    _put(queue, "q", 1.0, model="large")
    assert [lane.model for lane in _lanes(queue)] == ["large", "small"], "whoever comes first over all models"
    _put(queue, "p", 1.0, model="large")
    assert [lane.model for lane in _lanes(queue)] == ["large"]
    assert set(queue.ids()) == {"p", "q"}
    assert "p" in queue
    queue.drop("p")
    queue.drop("p")
    assert len(queue) == 1


def test_those_who_must_run_alone_have_a_lane_of_their_own() -> None:
    queue = WaitingQueue(age_s=50.0)
    _put(queue, "p", 1.0, alone=True)
    _put(queue, "q", 2.0)
    assert [lane.alone for lane in _lanes(queue)] == [True, False]
    _put(queue, "p", 1.0, alone=False)
    assert [lane.alone for lane in _lanes(queue)] == [False]


def test_what_was_found_out_about_the_first_is_forgotten_when_it_changes() -> None:
    queue = WaitingQueue(age_s=50.0)
    _put(queue, "p", 1.0)
    (lane,) = _lanes(queue)
    for forget in (lambda: _put(queue, "p", 2.0), queue.unblock):
        lane.blocked, lane.wake_at = "p", 7.0
        assert queue.wake_at() == 7.0
        forget()
        assert (lane.blocked, queue.wake_at()) == (None, math.inf)
    lane.blocked, lane.wake_at = "p", 7.0
    _put(queue, "q", 3.0)
    assert lane.blocked == "p"
    queue.drop("p")
    assert (lane.blocked, lane.wake_at) == (None, math.inf)


# Fleet


def test_the_fleet_forgets_its_answers_rather_than_let_clients_fill_its_memory() -> None:
    fleet = Fleet()
    backend = _backend(2.0)
    backend.healthy, backend.capacity_tokens = True, 10
    fleet.add(backend)
    for number in range(1_000):
        assert fleet.choice(f"made-up-{number}").backends == (backend,)
    assert len(fleet._choices) <= 64
    backend.draining = True
    fleet.changed()
    assert fleet.choice("made-up-999").backends == ()
    assert fleet.fits_somewhere("made-up-999", 10)
    assert not fleet.fits_somewhere("made-up-999", 11)
