"""The benchmark of tool environments: its figures, and a small run in real sandboxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import environments
from benchmarks.sandboxes import report
from benchmarks.sandboxes.arms import KEPT, OURS, ArmResult, Moment
from benchmarks.sandboxes.figures import Results, broken, busiest, figures, percentile, unmet
from benchmarks.sandboxes.latency import Latencies
from benchmarks.sandboxes.load import ProgramRecord
from benchmarks.sandboxes.witness import ProcessWitness

SMALL = [
    "--provider",
    "process",
    "--programs",
    "4",
    "--pool",
    "2",
    "--write-mib",
    "1",
    "--turns",
    "2",
    "--tool-s",
    "0.1",
]


def arm(name=OURS, *, total=110, hidden=True, reclaim_s=0.5, left=()):
    queued = ProgramRecord(1, queued=True, environment="b", hidden=hidden, admitted=5.0)
    return ArmResult(
        name,
        wall_s=10.0,
        programs=[ProgramRecord(0, queued=False, environment="a", admitted=1.0), queued],
        moments=[Moment(1.0, 100, 100, 1, 0), Moment(2.0, total, 100, 2, 0), Moment(11.0, 999, 0, 2, 0)],
        reclaim_s=[reclaim_s],
        made=[0.0, 1.0, 20.0],
        left=list(left),
    )


def latencies(seconds, pause_s=0.1):
    return Latencies("SDK", 8, pause_s, seconds, 100.0)


class TestFigures:
    def test_disk_is_compared_while_programs_run(self):
        assert figures(arm())["disk_ratio"] == pytest.approx(210 / 200)

    def test_only_programs_that_queued_can_have_starts_hidden(self):
        assert figures(arm())["hidden_share"] == 1
        assert figures(arm(hidden=False))["hidden_share"] == 0

    def test_busiest_window(self):
        assert busiest([0.0, 1.0, 20.0], window_s=10.0) == pytest.approx(0.2)
        assert busiest([]) == 0

    def test_percentiles(self):
        assert percentile([], 0.5) is None
        assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
        assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0

    def test_nothing_measured(self):
        assert figures(ArmResult(OURS))["disk_ratio"] is None


class TestGoals:
    def test_met(self):
        assert unmet(Results({}, [arm()], [latencies([0.001, 0.002])])) == []

    @pytest.mark.parametrize(
        "result",
        [
            Results({}, [arm(total=200)]),
            Results({}, [arm(hidden=False)]),
            Results({}, [arm(reclaim_s=2.5)]),
            Results({}, [], [latencies([0.001, 0.001, 0.1])]),
        ],
    )
    def test_missed(self, result):
        assert len(unmet(result)) == 1

    def test_other_arms_and_ways_have_no_goals(self):
        assert unmet(Results({}, [arm(KEPT, total=900)], [latencies([1.0], pause_s=0.0)])) == []

    def test_what_is_left_is_always_wrong(self):
        assert "containers abc" in broken(Results({}, [arm(left=["containers abc"])]))[0]


def test_witness_sees_directories_come_and_go(tmp_path):
    witness = ProcessWitness(tmp_path / "sandboxes", "inst")
    assert witness.look().allocated == {}
    folder = tmp_path / "sandboxes" / "environments" / "thunder-inst-e1"
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(bytes(8192))
    assert witness.look().allocated["e1"] >= 8192
    trash = tmp_path / "sandboxes" / "trash"
    trash.mkdir()
    folder.rename(trash / "thunder-inst-e1~00")
    witness.look()
    assert witness.gone == {}
    (trash / "thunder-inst-e1~00" / "data").unlink()
    (trash / "thunder-inst-e1~00").rmdir()
    witness.look()
    assert set(witness.gone) == {"e1"}


def test_page_without_a_place_is_refused(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(SystemExit):
        environments.parse(["--report", str(page)])
    assert report.BEGIN in capsys.readouterr().err


def test_small_run_in_sandboxes(tmp_path, capsys):
    """Three arms and the commands, from the command line to the page, with nothing left over."""
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    options = ["--commands", "8", "--parallel", "2", "--pause-ms", "1", "--out", str(out), "--report", str(page)]
    status = environments.main([*SMALL, *options, "--plot", str(tmp_path)])
    shown = capsys.readouterr()
    assert status == 0, shown
    assert "left behind: 0" in shown.out
    kept = json.loads(out.read_text())
    assert [one["arm"] for one in kept["arms"]] == list(environments.ARMS)
    for one in kept["arms"]:
        assert len(one["reclaim_s"]) == 4, one
        assert all(record["error"] is None for record in one["programs"])
    assert len(kept["latencies"]) == 6
    assert "--programs 4" in page.read_text()
    assert {path.name for path in Path(tmp_path).glob("*.png")} >= {"environments-disk.png", "environments-exec.png"}
