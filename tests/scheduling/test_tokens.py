"""Tokens before the engine has told us: what is learned from usage, and how sure one can be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderagent_core.scheduling.events import RequestArrived
from thunderagent_core.scheduling.program import Program
from thunderagent_core.scheduling.tokens import DEFAULT_CHARS_PER_TOKEN, TokenEstimator


def _prompt(chars: int, model: str | None = "m", tokens: int | None = None) -> RequestArrived:
    return RequestArrived("r", "p", model, prompt_chars=chars, prompt_tokens=tokens)


def test_before_any_measurement_four_characters_make_a_token() -> None:
    estimator = TokenEstimator()
    assert estimator.chars_per_token("m") == DEFAULT_CHARS_PER_TOKEN
    assert estimator.estimate(_prompt(4_001), None) == 1_001


def test_an_empty_prompt_is_one_token() -> None:
    assert TokenEstimator().estimate(_prompt(0), None) == 1
    assert TokenEstimator().estimate(_prompt(0, tokens=0), None) == 1


def test_each_model_has_its_own_ratio() -> None:
    estimator = TokenEstimator()
    estimator.learn(None, "dense", 3_000, 1_500)
    assert estimator.estimate(_prompt(1_000, "dense"), None) == 500
    assert estimator.estimate(_prompt(1_000, "other"), None) == 250


def test_a_programs_own_measurement_goes_before_its_models() -> None:
    estimator, program = TokenEstimator(), Program("p")
    estimator.learn(program, "m", 3_000, 1_000)
    for _ in range(50):
        estimator.learn(None, "m", 5_000, 1_000)
    assert estimator.estimate(_prompt(3_000), program) == 1_000
    assert estimator.estimate(_prompt(1_500), program) == 500, "it cut its context down"
    assert estimator.estimate(_prompt(8_000), program) == pytest.approx(2_000, abs=10), "what it added is like others'"
    assert estimator.estimate(_prompt(3_000), Program("new")) == pytest.approx(600, abs=5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=30))
def test_a_models_ratio_stays_within_what_was_measured_on_text(measured: list[tuple[int, int]]) -> None:
    estimator = TokenEstimator()
    for chars, tokens in measured:
        estimator.learn(None, "m", chars, tokens)
    telling = [chars / tokens for chars, tokens in measured if tokens >= 256 and 1 <= chars / tokens <= 8]
    ratios = telling or [DEFAULT_CHARS_PER_TOKEN]
    assert min(ratios) * (1 - 1e-9) <= estimator.chars_per_token("m") <= max(ratios) * (1 + 1e-9)


@pytest.mark.parametrize(("chars", "tokens"), [(0, 100), (100, 0), (0, 0), (-5, 10)])
def test_usage_that_says_nothing_teaches_nothing(chars: int, tokens: int) -> None:
    estimator, program = TokenEstimator(), Program("p")
    estimator.learn(program, "m", chars, tokens)
    assert estimator.chars_per_token("m") == DEFAULT_CHARS_PER_TOKEN
    assert program.measured_tokens == 0


@settings(deadline=None)
@given(chars=st.integers(0, 10**7), measured=st.none() | st.integers(1, 10**6), exact=st.none() | st.integers(1, 10**6))
def test_what_a_prompt_has_at_least_is_never_more_than_its_estimate(
    chars: int, measured: int | None, exact: int | None
) -> None:
    estimator = TokenEstimator()
    if measured is not None:
        estimator.learn(None, "m", 3_000, measured)
    event = _prompt(chars, tokens=exact)
    assert estimator.at_least(event) <= estimator.estimate(event, None)
    assert (estimator.at_least(event) == exact) or exact is None
