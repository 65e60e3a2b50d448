"""Tokens, the chat template and decided answers: equal beginnings must stay equal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderagent_core.engines.simulated.conversation import (
    Conversation,
    Tool,
    ToolCall,
    Turn,
    canonical,
    pieces,
    render,
)
from thunderagent_core.engines.simulated.filler import filler
from thunderagent_core.engines.simulated.replies import Wish, assemble, decide
from thunderagent_core.engines.simulated.script import Reply, ScriptedCall
from thunderagent_core.engines.simulated.tokenizer import Special, decode, decode_one, encode

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts)
def test_decoding_gives_the_text_back(text):
    assert decode(encode(text)) == text


@given(texts, texts, texts)
def test_equal_beginnings_give_equal_tokens_but_for_the_last(beginning, one, other):
    safe = max(0, len(encode(beginning)) - 1)
    assert encode(beginning + one)[:safe] == encode(beginning + other)[:safe] == encode(beginning)[:safe]


@given(texts, st.integers(0, 30))
def test_a_text_cut_after_whole_tokens_keeps_them(text, count):
    kept = encode(text)[:count]
    assert encode(decode(kept)) == kept


@given(texts, texts)
def test_after_a_newline_tokens_are_in_step_again(before, after):
    assert encode(before + "\n" + after)[len(encode(before + "\n")) :] == encode(after)


def test_a_token_is_about_four_characters():
    text = "The quick brown fox jumps over the lazy dog, again and again.\n" * 50
    assert 3.5 < len(text) / len(encode(text)) <= 4


def test_special_tokens_have_no_text_and_unknown_ones_are_refused():
    assert decode([Special.TURN, *encode("hi"), Special.END]) == "hi"
    assert encode("\ud800") == encode("?")
    with pytest.raises(ValueError, match="stands for no text"):
        decode_one(1 << 60)


calls = st.builds(ToolCall, st.text("abc_", min_size=1), st.dictionaries(texts, texts, max_size=2).map(canonical))
turns = st.builds(Turn, st.just("assistant"), texts, st.lists(calls, max_size=2).map(tuple))


@given(texts, turns, texts)
def test_the_next_turn_begins_with_the_previous_one_and_its_answer(question, answer, result):
    start = Conversation((Turn("user", question),), (Tool("t", "{}", {}),))
    generated = [token for token, _ in pieces(answer)]
    after = Conversation((*start.turns, answer, Turn("tool", result)), start.tools)
    prompt = render(start) + generated
    assert render(after)[: len(prompt)] == prompt


@given(turns)
def test_a_client_puts_together_what_was_generated(answer):
    assert assemble(piece for _, piece in pieces(answer)) == answer


@given(turns, st.integers(1, 40))
def test_an_answer_cut_short_is_sent_back_as_the_tokens_that_were_generated(answer, count):
    shown = pieces(Turn("assistant", answer.text))[:count]
    sent = assemble(piece for _, piece in shown)
    generated = [token for token, _ in shown if token != Special.END]
    assert encode(sent.text) == generated


def test_arguments_survive_being_formatted_anew():
    assert canonical('{"a":1,"b":[true]}') == canonical({"a": 1, "b": [True]}) == '{"a": 1, "b": [true]}'
    assert canonical('{"cut": ') == '{"cut": '


@given(st.integers(0, 2**64 - 1), st.integers(0, 50))
def test_filler_has_exactly_the_length_asked_for(seed, tokens):
    assert len(encode(filler(seed, tokens))) == tokens
    assert filler(seed, tokens) == filler(seed, tokens)


class TestDecide:
    prompt = encode("a prompt")

    def test_unscripted_answers_use_up_max_tokens(self):
        answer = decide(Wish(self.prompt, 7), None, None)
        assert (len(answer.tokens), answer.finish_reason) == (7, "length")

    def test_without_max_tokens_they_stop_by_themselves(self):
        answer = decide(Wish(self.prompt, None), None, None)
        assert (len(answer.tokens), answer.finish_reason) == (64, "stop")
        assert answer.tokens[-1] == Special.END

    def test_the_default_length_is_a_setting_but_not_for_benchmarks(self):
        assert len(decide(Wish(self.prompt, 100), None, 10).tokens) == 10
        assert decide(Wish(self.prompt, 100), None, 10).finish_reason == "stop"
        assert decide(Wish(self.prompt, 5), None, 10).finish_reason == "length"
        assert len(decide(Wish(self.prompt, 100, ignore_eos=True), None, 10).tokens) == 100

    def test_another_prompt_gets_another_answer_and_the_same_one_the_same(self):
        first, again, other = (decide(Wish(encode(text), 9), None, None) for text in ("a", "a", "b"))
        assert first == again
        assert first.tokens != other.tokens

    def test_a_completion_continues_in_step_with_its_prompt(self):
        for tokens in (2, 9):
            answer = decide(Wish(self.prompt, tokens, chat=False), None, None)
            joined = decode(self.prompt) + assemble(piece for _, piece in answer.shown).text
            assert len(answer.tokens) == tokens
            assert encode(joined)[1 - tokens :] == answer.tokens[1:], "all but the newline are the same tokens"

    def test_a_scripted_answer_is_cut_at_max_tokens(self):
        reply = Reply(text="x" * 40, tool_calls=(ScriptedCall("run", {"command": "ls"}),))
        whole = decide(Wish(self.prompt, None), reply, None)
        assert whole.finish_reason == "stop"
        assert assemble(piece for _, piece in whole.shown).calls == (ToolCall("run", '{"command": "ls"}'),)
        cut = decide(Wish(self.prompt, 3), reply, None)
        assert (cut.tokens, cut.finish_reason) == (whole.tokens[:3], "length")

    def test_a_forced_tool_is_called_with_arguments_that_fit_its_schema(self):
        schema = {
            "properties": {
                "path": {"type": "string"},
                "count": {"type": "integer"},
                "mode": {"type": "string", "enum": ["r", "w"]},
                "optional": {"type": "string"},
            },
            "required": ["path", "count", "mode", "missing"],
        }
        answer = decide(Wish(self.prompt, None, forced_tool=Tool("open", "", schema)), None, None)
        (call,) = assemble(piece for _, piece in answer.shown).calls
        assert json.loads(call.arguments) == {"path": "simulated", "count": 1, "mode": "r", "missing": "simulated"}

    @pytest.mark.parametrize("schema", [{}, {"properties": 3, "required": "no"}, {"required": [1, "a"]}])
    def test_a_strange_schema_is_no_accident(self, schema):
        answer = decide(Wish(self.prompt, None, forced_tool=Tool("t", "", schema)), None, None)
        assert assemble(piece for _, piece in answer.shown).calls[0].name == "t"
