"""docs/configuration.md says of each setting what the program says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from thunderagent_core.config import ServerConfig, load_config
from thunderagent_core.config.model import settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def default_text(default):
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("field", fields(ServerConfig), ids=lambda field: field.name)
def test_the_page_has_a_row_for_each_setting(field):
    about = settings()[field.name]
    row = f"| `{field.name}` | `{about.flag}` | {default_text(field.default)} | {about.text} |"
    assert row in PAGE.read_text().splitlines()


def test_the_page_has_no_other_rows():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(settings())


@pytest.mark.parametrize("kind", ["toml", "yaml"])
def test_the_examples_can_be_loaded(tmp_path, kind):
    text = PAGE.read_text().partition(f"```{kind}\n")[2].partition("```")[0]
    file = tmp_path / f"example.{kind}"
    file.write_text(text)
    assert load_config(file=file).backends == ("http://gpu1:8000", "http://gpu2:8000")


def test_every_description_is_one_line_that_ends_in_a_full_stop():
    for about in settings().values():
        assert about.text.endswith(".")
        assert "\n" not in about.text
