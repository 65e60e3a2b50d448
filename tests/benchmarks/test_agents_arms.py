"""Which arms there are, what they are set to, and in which order they run."""

from __future__ import annotations

import pytest

from benchmarks import agents
from benchmarks.closed_loop import router
from benchmarks.closed_loop.arms import DEFAULT_CAPS, ArmSpec, chosen_arms, parse_arm
from benchmarks.closed_loop.calibration import Calibration, fit, least_squares
from benchmarks.closed_loop.engine import Engine
from benchmarks.closed_loop.running import server_options
from benchmarks.closed_loop.session import schedule
from thunderagent_core.config import load_config
from thunderagent_core.config.model import settings
from thunderagent_core.demo.comparison import TIMES

CALIBRATION = Calibration(0.01, 0.5, 0.04, 0.03, 0.004, 0.000001)


def engine(**changes):
    fields = {
        "url": "http://127.0.0.1:1",
        "model": "m",
        "version": "1",
        "capacity_tokens": 16_384,
        "block_tokens": 32,
        "chars_per_token": 4.0,
        "speed": 1.0,
        "origin": "a test",
    }
    return Engine(**(fields | changes))


@pytest.mark.parametrize(
    ("text", "kind", "given"),
    [
        ("direct", "direct", ()),
        ("passthrough", "passthrough", ()),
        ("cap:8", "cap", (("cap_programs", "8"),)),
        ("ttl:2.5", "ttl", (("ttl_s", "2.5"),)),
        ("cap:8,tick_s=2", "cap", (("cap_programs", "8"), ("tick_s", "2"))),
        (
            "paper:low_watermark=0.8,discount_shared_prefix=false",
            "paper",
            (("low_watermark", "0.8"), ("discount_shared_prefix", "false")),
        ),
        ("vllm-router:resume_order=fcfs", "vllm-router", (("resume_order", "fcfs"),)),
    ],
)
def test_an_arm_is_read_from_its_name(text, kind, given):
    assert parse_arm(text) == ArmSpec(text, kind, given)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("papr", "the nearest is paper"),
        ("paper:low_watermak=0.8", "the nearest known one is low_watermark"),
        ("paper:low_watermark=much", "low_watermark .*allowed"),
        ("paper:low_watermark=5", "low_watermark .*allowed"),
        ("paper:0.8", "expected KEY=VALUE"),
        ("paper:", "expected KEY=VALUE"),
        ("cap:0", "cap_programs .*allowed"),
        ("direct:tick_s=1", "direct has no settings"),
        ("vllm-router:stats_window=24", "the nearest is stats_window_size"),
    ],
)
def test_a_name_that_makes_no_sense_is_an_error(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_arm(text)


def test_which_arms_run():
    default = [arm.name for arm in chosen_arms([], [])]
    assert {f"cap:{k}" for k in DEFAULT_CAPS} | {"direct", "passthrough", "paper", "vllm-router"} < set(default)
    assert [name for name in (arm.name for arm in chosen_arms([], [3])) if name.startswith("cap")] == ["cap:3"]
    assert [arm.name for arm in chosen_arms(["paper"], [3, 4])] == ["paper", "cap:3", "cap:4"]
    with pytest.raises(ValueError, match="given twice"):
        chosen_arms(["cap:3"], [3])


def test_every_seed_has_all_arms_side_by_side_and_begins_with_another():
    names = ["direct", "passthrough", "sticky", "paper"]
    slots = schedule([parse_arm(name) for name in names], [7, 8])
    assert [slot.seed for slot in slots] == [7] * 4 + [8] * 4
    assert [slot.arm.name for slot in slots] == [*names, "sticky", "paper", "direct", "passthrough"]
    assert [slot.position for slot in slots] == [0, 1, 2, 3] * 2
    assert [slot.number for slot in slots] == list(range(8))


def test_our_server_is_told_what_the_arm_says_and_no_more():
    assert server_options(parse_arm("paper"), engine()) == ["--policy", "paper"]
    options = server_options(parse_arm("cap:8,max_wait_s=60"), engine())
    assert options == ["--policy", "cap", "--cap-programs", "8", "--max-wait-s", "60"]


def test_before_a_faster_engine_all_times_are_as_much_shorter():
    options = server_options(parse_arm("ttl:4"), engine(speed=8.0))
    told = dict(zip(options[::2], options[1::2], strict=True))
    assert set(told) == {"--policy", "--ttl-s", *TIMES}
    assert told["--ttl-s"] == "0.5"
    defaults = load_config()
    for name, about in settings().items():
        if about.flag in told and name not in {"policy", "ttl_s"}:
            assert float(told[about.flag]) == pytest.approx(getattr(defaults, name) / 8)


def test_the_router_is_told_what_was_measured():
    config = router.configuration(parse_arm("vllm-router"), engine(), CALIBRATION)
    assert config["token_capacity_per_dp_rank"] == 16_352
    assert config["prefill_cost_model"]["linear_seconds_per_1k_tokens"] == 0.5
    assert config["decode_throughput_model"]["context_step_seconds_per_token"] == 0.000001
    assert config["max_acting_ttl_seconds"] == 10.0


def test_the_router_takes_other_settings_and_a_faster_clock():
    text = "vllm-router:resume_order=fcfs,max_acting_ttl_seconds=4,prefill_cost_model.decode_throughput_alpha=0.5"
    config = router.configuration(parse_arm(text), engine(speed=8.0), CALIBRATION)
    assert (config["resume_order"], config["max_acting_ttl_seconds"]) == ("fcfs", 0.5)
    assert config["prefill_cost_model"]["decode_throughput_alpha"] == 0.5
    assert config["prefill_cost_model"]["linear_seconds_per_1k_tokens"] == 0.5, "measured on our clock"


def test_cost_models_are_found_again():
    prefills = [(tokens, 0.02 + 0.4 * tokens / 1000 + 0.03 * (tokens / 1000) ** 2) for tokens in (250, 500, 1000, 4000)]
    steps = [(b, c, 0.03 + 0.004 * b + 2e-6 * c) for b in (1, 4, 16) for c in (100 * b, 900 * b)]
    found = fit(prefills, steps)
    assert found.prefill_fixed_s == pytest.approx(0.02)
    assert found.prefill_linear_s == pytest.approx(0.4)
    assert found.prefill_quadratic_s == pytest.approx(0.03)
    assert found.step_fixed_s == pytest.approx(0.03)
    assert found.step_request_s == pytest.approx(0.004)
    assert found.step_token_s == pytest.approx(2e-6)


def test_no_coefficient_is_negative():
    assert least_squares([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]], [3.0, 2.0, 1.0]) == [pytest.approx(2.0), 0.0]
    assert least_squares([[1.0], [1.0]], [-1.0, -2.0]) == [0.0]
    assert least_squares([[1.0, 1.0], [1.0, 1.0]], [2.0, 2.0]) == [pytest.approx(2.0), 0.0]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--simulated", "--testbed"],
        ["--simulated", "--arm", "nonsense"],
        ["--simulated", "--seeds", "1,1"],
        ["--simulated", "--seeds", "one"],
        ["--simulated", "--programs", "0"],
        ["--simulated", "--tool-law", "uniform"],
    ],
)
def test_a_command_line_that_makes_no_sense_starts_nothing(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        agents.parse(arguments)
    assert left.value.code == 2
    assert "error" in capsys.readouterr().err


def test_every_size_of_the_load_can_be_given():
    options = agents.parse(["--simulated", "--programs", "3", "--tool-law", "constant", "--parallel-calls", "2"])
    load = options.workload
    assert (load.programs, load.tool_law, load.parallel_calls, load.task_tokens) == (3, "constant", 2, 760)
