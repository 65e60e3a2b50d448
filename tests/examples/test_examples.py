"""The example and the README's SDK block, run as a user would run them, against the simulated engine."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from thunderagent_core.demo.children import child

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def a_server():
    engine_options = ["--port", "0", "--speed", "50", "--reply-tokens", "16"]
    async with (
        child("engine", *engine_options) as engine,
        child("serve", "--port", "0", "--backend", engine, "--startup-wait-s", "120") as server,
    ):
        yield server


async def run_python(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    return output


async def no_program_is_left(server: str) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        assert (await client.get(f"{server}/programs")).json() == {"programs": [], "waiting": 0}


async def test_word_agents_run_and_release_their_programs():
    async with a_server() as server:
        output = await run_python("examples/word_agents.py", "--server", server, "--agents", "3", "--turns", "2")
        assert "3 agents done" in output
        await no_program_is_left(server)


async def test_the_sdk_block_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    block = next(block for block in blocks if "thunderagent_core.client" in block)
    async with a_server() as server:
        code = block.replace("Client()", f"Client({server!r})").replace('"…"', '"simulated"')
        output = await run_python("-c", code + "\nprint(answer['choices'][0]['message']['role'])")
        assert output.strip() == "assistant"
        await no_program_is_left(server)
