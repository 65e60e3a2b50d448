"""Scripts: the first rule that fits answers, by the number of turns so far."""

from __future__ import annotations

import json

import pytest

from thunderagent_core.engines.simulated.conversation import Conversation, Turn
from thunderagent_core.engines.simulated.script import Reply, Rule, Script, ScriptError, load_script

TOML = """
[[rules]]
contains = "fix the bug"

[[rules.replies]]
text = "Let me look."
tool_calls = [{ name = "bash", arguments = { command = "ls" } }]

[[rules.replies]]
text = "Fixed."

[[rules]]
times = 1
replies = [{ status = 503, message = "busy" }]
"""


def conversation(*texts):
    roles = ["user", "assistant"]
    return Conversation(tuple(Turn(roles[i % 2], text) for i, text in enumerate(texts)))


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.toml"
    path.write_text(TOML)
    return load_script(path)


def test_replies_follow_the_turns_and_a_retry_gets_the_same_one(script):
    question = conversation("please fix the bug")
    for _ in range(2):
        reply = script.reply_for(question, None)
        assert (reply.text, reply.tool_calls[0].arguments) == ("Let me look.", {"command": "ls"})
    later = conversation("please fix the bug", "Let me look.", "a.py")
    assert script.reply_for(later, None).text == "Fixed."
    much_later = conversation("please fix the bug", "1", "2", "3", "4", "5", "6")
    assert script.reply_for(much_later, None).text == "Fixed.", "the last reply repeats"


def test_a_rule_may_answer_only_so_often(script):
    assert script.reply_for(conversation("something else"), None).status == 503
    assert script.reply_for(conversation("something else"), None) is None


def test_all_conditions_must_hold():
    rule = Rule(replies=(Reply(text="x"),), contains="a", last_contains="b", last_role="user", session="p-*")
    script = Script((rule,))
    assert script.reply_for(conversation("a", "", "b"), "p-1") is not None
    assert script.reply_for(conversation("a", "", "b"), "q-1") is None
    assert script.reply_for(conversation("a", "", "b"), None) is None
    assert script.reply_for(conversation("a", "", "c"), "p-1") is None
    assert script.reply_for(conversation("a", "b"), "p-1") is None
    assert script.reply_for(conversation("c", "", "b"), "p-1") is None


def test_json_scripts_are_read_too(tmp_path):
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"rules": [{"replies": [{"tokens": 5, "delay_s": 1.5}]}]}))
    assert load_script(path).reply_for(conversation("x"), None) == Reply(tokens=5, delay_s=1.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[rules]]\nreplies = [{ txt = 1 }]", r"unknown field `txt` - at `\$.rules\[0\].replies\[0\]`"),
        ("[[rules]]\ncontains = 3\nreplies = []", "Expected `str"),
        ("[[rules]]\nreplies = []", "at least one reply"),
        ("[[rules]]\nreplies = [{ text = 'a', tokens = 3 }]", "either text or tokens"),
        ("[[rules]]\nreplies = [{ status = 200 }]", "must be an HTTP error"),
        ("rules = [", "script.toml"),
    ],
)
def test_a_mistake_is_named(tmp_path, content, message):
    path = tmp_path / "script.toml"
    path.write_text(content)
    with pytest.raises(ScriptError, match=message):
        load_script(path)


def test_a_missing_script_is_an_error(tmp_path):
    with pytest.raises(ScriptError, match=r"none\.toml"):
        load_script(tmp_path / "none.toml")
