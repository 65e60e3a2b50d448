"""``thunderagent replay``: the same decisions, others, and files that are no traces."""

from __future__ import annotations

import json

import pytest
from cli_tools import cli

from thunderagent_core.scheduling.events import BackendAdded, BackendSampled, ProgramReleased, RequestArrived
from thunderagent_core.scheduling.policies import make_policy
from thunderagent_core.scheduling.scheduler import Scheduler
from thunderagent_core.scheduling.settings import SchedulerSettings
from thunderagent_core.scheduling.trace import header_line, step_line

STORY = [
    BackendAdded("e1"),
    BackendSampled("e1", 1000),
    RequestArrived("r1", "job-1", prompt_chars=400),
    RequestArrived("r2", "job-2", prompt_chars=400),
    ProgramReleased("job-1"),
]


@pytest.fixture
def lines():
    settings = SchedulerSettings()
    scheduler = Scheduler(make_policy("paper", settings), settings)
    steps = [step_line(now, event, scheduler.handle(event, now)) for now, event in enumerate(STORY)]
    return [header_line("paper", settings), *steps]


@pytest.fixture
def trace(tmp_path):
    def write(lines):
        path = tmp_path / "trace.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


def changed(line):
    """The same step with its first decision taken for another backend."""
    step = json.loads(line)
    step["decisions"][0]["backend_id"] = "e2"
    return json.dumps(step)


def test_the_same_decisions(trace, lines):
    path = trace(lines)
    result = cli("replay", path)
    assert (result.exit_code, result.stdout) == (0, f"{path}: 5 steps, the same decisions\n")
    found = json.loads(cli("replay", path, "--json").stdout)
    assert found == {"steps": 5, "mismatches": 0, "shown": []}


def test_other_decisions_are_shown_as_a_difference(trace, lines):
    lines[3] = changed(lines[3])
    path = trace(lines)
    result = cli("replay", path)
    assert result.exit_code == 1
    shown = result.stdout.splitlines()
    assert shown[0].startswith("line 4, now 2.000000: RequestArrived request_id=r1 program_id=job-1 prompt_chars=400")
    assert "  - Restore program_id=job-1 backend_id=e2 reason=new program moved=False" in shown
    assert "  + Restore program_id=job-1 backend_id=e1 reason=new program moved=False" in shown
    assert "    Forward program_id=job-1 request_id=r1 backend_id=e1" in shown
    assert shown[-1] == f"{path}: 5 steps, 1 of them with other decisions"


def test_how_many_differences_are_shown(trace, lines):
    lines[3], lines[4] = changed(lines[3]), changed(lines[4])
    found = json.loads(cli("replay", trace(lines), "--json", "--show", "1").stdout)
    assert (found["mismatches"], [shown["line"] for shown in found["shown"]]) == (2, [4])
    assert found["shown"][0]["recorded"][0]["backend_id"] == "e2"


def test_a_decision_that_is_not_taken_any_more(trace, lines):
    step = json.loads(lines[1])
    step["decisions"] = [{"type": "Detach", "backend_id": "e1"}]
    lines[1] = json.dumps(step)
    shown = cli("replay", trace(lines)).stdout.splitlines()
    assert shown[1:3] == ["  - Detach backend_id=e1", "  + (nothing)"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "line 1: not the header of a trace"),
        ("hello\n", "line 1: not the header of a trace"),
        ('{"trace": 99}\n', "line 1: trace version 99"),
    ],
)
def test_files_that_are_no_traces(tmp_path, content, line):
    path = tmp_path / "x"
    path.write_text(content)
    result = cli("replay", path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"thunderagent: {line}")
    assert result.stderr.count("\n") == 1


def test_a_broken_line_is_named(trace, lines):
    result = cli("replay", trace([*lines[:2], "{", *lines[2:]]))
    assert result.exit_code == 2
    assert "line 3: not a step of a trace" in result.stderr


def test_a_missing_file(tmp_path):
    result = cli("replay", tmp_path / "none")
    assert result.exit_code == 2
    assert "No such file" in result.stderr
