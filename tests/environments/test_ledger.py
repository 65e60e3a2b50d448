"""The ledger: durable, owned by one server at a time, and clear about what is wrong with it."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest

from thunderagent_core.environments.ledger import Ledger
from thunderagent_core.environments.ledger_errors import (
    FencedError,
    LedgerError,
    ParentEndedError,
    PortLeasedError,
    StaleStateError,
)
from thunderagent_core.environments.ledger_rows import EnvironmentRow, SnapshotRow, SnapshotStatus
from thunderagent_core.environments.spec import EnvironmentSpec
from thunderagent_core.environments.states import IllegalTransitionError, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    opened = await Ledger.open(path)
    yield opened
    await opened.aclose()


def row(environment_id: str, **fields: Any) -> EnvironmentRow:
    spec = EnvironmentSpec(name="shell", env={"KEY": "ü"}, ports=(80,))
    values: dict[str, Any] = {"program_key": None, "name": "shell", "provider": "scripted", "handle": environment_id}
    return EnvironmentRow(id=environment_id, spec=spec, digest=spec.digest, **{**values, **fields})


async def test_what_was_written_is_there_after_opening_again(path: Path) -> None:
    first = await Ledger.open(path)
    program, _ = await first.declare("p", [row("a")], parent_id="parent")
    await first.change("a", State.PREPARING, endpoint="east", present=True, leases={80: 4000}, ports={80: 4000})
    snapshot = SnapshotRow(
        name="s", environment_id="a", provider="scripted", endpoint="east", status=SnapshotStatus.TAKING, bytes=7
    )
    await first.put_snapshot(snapshot)
    await first.aclose()
    second = await Ledger.open(path)
    contents = await second.load()
    assert second.installation == first.installation
    assert second.epoch == first.epoch + 1
    assert contents.programs == [program]
    (found,) = contents.environments
    assert (found.state, found.endpoint, found.present, found.ports) == (State.PREPARING, "east", True, {80: 4000})
    assert (found.spec, found.program_key, found.epoch) == (row("a").spec, program.key, second.epoch)
    assert [(one.name, one.status, one.bytes) for one in contents.snapshots] == [("s", "taking", 7)]
    assert contents.leases == {("scripted", "east", 4000): "a"}
    await second.aclose()


async def test_a_commit_is_on_disk_before_the_call_returns(path: Path) -> None:
    """A process that ends without any clean-up right after the call has lost nothing."""
    script = f"""
        import asyncio, os, pathlib
        from thunderagent_core.environments.ledger import Ledger
        async def main():
            ledger = await Ledger.open(pathlib.Path({str(path)!r}))
            await ledger.declare("p", [])
            os._exit(9)
        asyncio.run(main())
    """
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=60
    )
    assert done.returncode == 9
    ledger = await Ledger.open(path)
    assert [program.id for program in (await ledger.load()).programs] == ["p"]
    await ledger.aclose()


async def test_durable_settings_and_private_file(ledger: Ledger, path: Path) -> None:
    def pragmas(store: Any) -> list[Any]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [store.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await ledger._writer.submit(pragmas) == ["wal", 2, 1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_whoever_opens_it_later_fences_the_one_before(ledger: Ledger, path: Path) -> None:
    await ledger.declare("p", [row("a")])
    second = await Ledger.open(path)
    for attempt in (
        lambda: ledger.change("a", State.PREPARING),
        lambda: ledger.declare("q", []),
        lambda: ledger.end([1], "released"),
        ledger.check_owner,
        lambda: ledger.fates(["a"]),
    ):
        with pytest.raises(FencedError, match="another server has taken over"):
            await attempt()
    contents = await second.load()
    assert [one.state for one in contents.environments] == [State.REQUESTED]
    assert [one.ended_at for one in contents.programs] == [None]
    await second.change("a", State.PREPARING)
    await second.aclose()


async def test_changes_follow_the_table_of_states(ledger: Ledger) -> None:
    await ledger.declare("p", [row("a")])
    with pytest.raises(IllegalTransitionError, match="a: requested -> paused"):
        await ledger.change("a", State.PAUSED)
    with pytest.raises(StaleStateError):
        await ledger.change("a", State.PREPARING, expect=State.READY)
    with pytest.raises(StaleStateError):
        await ledger.change("nobody", State.PREPARING)
    changed = await ledger.change("a", State.PREPARING, expect=State.REQUESTED, reason="why")
    assert (changed.state, changed.reason) == (State.PREPARING, "why")


async def test_a_refused_change_takes_nobody_with_it(ledger: Ledger) -> None:
    """Changes that share a transaction are refused one by one."""
    await ledger.declare("p", [row("a"), row("b")])
    good = ledger.change("a", State.PREPARING)
    bad = ledger.change("a", State.GONE)
    good_too = ledger.change("b", State.PREPARING)
    assert (await good).state is State.PREPARING
    with pytest.raises(IllegalTransitionError):
        await bad
    assert (await good_too).state is State.PREPARING


async def test_many_changes_share_transactions(ledger: Ledger) -> None:
    """While one is being written others queue up, and go to the disk together."""
    gate = threading.Event()
    transactions = 0

    def count(text: str) -> None:
        nonlocal transactions
        transactions += text.startswith("COMMIT")

    await ledger._writer.submit(lambda store: store.connection.set_trace_callback(count))
    blocked = ledger._writer.submit(lambda _: gate.wait(60))
    declared = [ledger.declare(f"p{number}", [row(f"e{number}")]) for number in range(200)]
    gate.set()
    await asyncio.gather(blocked, *declared)
    assert transactions <= 4
    assert len((await ledger.load()).environments) == 200


async def test_the_loop_runs_on_while_the_disk_is_slow(ledger: Ledger) -> None:
    gate = threading.Event()
    writing = ledger._writer.submit(lambda _: gate.wait(60))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not writing.done()
    gate.set()
    assert await writing


async def test_the_end_of_programs_takes_their_environments_along(ledger: Ledger) -> None:
    p, _ = await ledger.declare("p", [row("a"), row("b")])
    q, _ = await ledger.declare("q", [row("c")])
    await ledger.change("b", State.PREPARING)
    programs, changed = await ledger.end([p.key], "released")
    assert [(one.id, one.reason, one.ended_at is None) for one in programs] == [("p", "released", False)]
    assert {(one.id, one.state) for one in changed} == {("a", State.RECLAIMING), ("b", State.RECLAIMING)}
    again, changed = await ledger.end([p.key], "lease")
    assert (again, changed) == (programs, [])  # the first reason stays
    assert {one.id for one in (await ledger.load()).programs} == {"p", "q"}
    reborn, _ = await ledger.declare("p", [])
    assert reborn.key not in {p.key, q.key}


async def test_no_child_of_a_parent_that_has_ended(ledger: Ledger) -> None:
    parent, _ = await ledger.declare("p", [])
    await ledger.end([parent.key], "released")
    with pytest.raises(ParentEndedError):
        await ledger.declare("c", [], parent_id="p", parent_key=parent.key)


async def test_a_port_has_one_owner_until_it_is_gone(ledger: Ledger) -> None:
    await ledger.declare("p", [row("a"), row("b")])
    await ledger.change("a", State.PREPARING, endpoint="east", leases={80: 4000})
    with pytest.raises(PortLeasedError):
        await ledger.change("b", State.PREPARING, endpoint="east", leases={80: 4000})
    await ledger.change("b", State.PREPARING, endpoint="west", leases={80: 4000})
    await ledger.change("a", State.RECLAIMING)
    assert len((await ledger.load()).leases) == 2
    await ledger.change("a", State.GONE)
    assert (await ledger.load()).leases == {("scripted", "west", 4000): "b"}


async def test_a_warm_one_is_given_out_once(ledger: Ledger) -> None:
    await ledger.add(row("warm", state=State.READY))
    _, (first, second) = await ledger.declare("p", [row("r1", name="one"), row("r2", name="two")])
    given = await ledger.hand_out("warm", first)
    assert (given.id, given.program_key, given.name) == ("warm", first.program_key, "one")
    with pytest.raises(StaleStateError):
        await ledger.hand_out("warm", second)
    assert {one.id for one in (await ledger.load()).environments} == {"warm", "r2"}


async def test_what_was_used_is_never_replaced(ledger: Ledger) -> None:
    await ledger.declare("p", [row("a")])
    await ledger.change("a", State.PREPARING, used=True)
    with pytest.raises(StaleStateError):
        await ledger.replace("a", row("b"), "unreachable")


async def test_nothing_is_requested_for_a_program_that_has_just_ended(ledger: Ledger) -> None:
    program, _ = await ledger.declare("p", [row("a")])
    await ledger.change("a", State.PREPARING)
    ended = ledger.end([program.key], "released")
    with pytest.raises(StaleStateError):
        await ledger.replace("a", row("b", program_key=program.key), "unreachable")
    await ended
    assert {one.id for one in (await ledger.load()).environments} == {"a"}


async def test_history_is_bounded(path: Path) -> None:
    ledger = await Ledger.open(path, history=5)
    for number in range(20):
        program, _ = await ledger.declare(f"p{number}", [row(f"e{number}")])
        await ledger.end([program.key], "released")
        await ledger.change(f"e{number}", State.GONE)
    fates = await ledger.fates([f"e{number}" for number in range(20)])
    assert len(fates) == 6  # those after the sixth newest
    assert set(fates.values()) == {State.GONE}
    with sqlite3.connect(path) as connection:
        (programs,) = connection.execute("SELECT count(*) FROM programs").fetchone()
    connection.close()
    assert programs <= 7
    await ledger.aclose()


# What can be wrong with the file


async def refused(path: Path) -> str:
    with pytest.raises(LedgerError) as caught:
        await Ledger.open(path)
    return str(caught.value)


async def test_a_damaged_file(path: Path) -> None:
    ledger = await Ledger.open(path)
    await ledger.declare("p", [row(f"e{number}") for number in range(200)])
    await ledger.aclose()
    content = bytearray(path.read_bytes())
    content[4096 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4096)
    path.write_bytes(content)
    assert "is damaged" in await refused(path)


async def test_no_ledger_at_all(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("something else entirely, and long enough to be a file\n" * 100)
    assert "is damaged or no ledger" in await refused(path)
    with sqlite3.connect(path.with_name("other.db")) as connection:
        connection.execute("CREATE TABLE things (x)")
    connection.close()
    assert "another program" in await refused(path.with_name("other.db"))


async def test_a_later_version(path: Path) -> None:
    await (await Ledger.open(path)).aclose()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "schema version 99" in await refused(path)


async def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be opened" in await refused(tmp_path / "file" / "ledger.db")


async def test_a_file_that_somebody_holds(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await ledger._writer.submit(lambda store: store.connection.execute("PRAGMA busy_timeout = 50"))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="held by another process"):
        await ledger.declare("p", [])
    holder.execute("ROLLBACK")
    holder.close()
    await ledger.declare("p", [])  # nothing was broken by that


async def test_a_closed_ledger_says_so(path: Path) -> None:
    ledger = await Ledger.open(path)
    await ledger.aclose()
    await ledger.aclose()
    with pytest.raises(LedgerError, match="closed"):
        ledger.check_owner()
