"""A batch of small agents, each one program: ask, run a tool on the answer, ask again, be released.

    thunderagent engine --port 8000 &
    thunderagent serve --backend http://127.0.0.1:8000 &
    python examples/word_agents.py --agents 8

With a real engine, name its model with --model. The tool counts words; yours would run tests or query a database.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from rich.progress import Progress

from thunderagent_core.client import Client


def count_words(text: str) -> str:
    """The agent's tool."""
    time.sleep(0.2)  # tools take their time; meanwhile the scheduler may let another program use the memory
    common = ", ".join(f"{word} {count}" for word, count in Counter(text.lower().split()).most_common(3))
    return f"{len(text.split())} words; most common: {common or 'none'}"


def run_agent(client: Client, model: str, number: int, turns: int) -> tuple[int, int]:
    """Run one agent; return its (prompt tokens, of which cached)."""
    messages = [{"role": "user", "content": f"Agent {number}: tell me about the number {number}, in one paragraph."}]
    with client.program() as program:
        for _ in range(turns):
            answer = program.chat(model=model, messages=messages, max_tokens=48)
            text = answer["choices"][0]["message"]["content"]
            with program.tool("count_words"):
                observation = count_words(text)
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": f"The tool says: {observation}. Go on."},
            ]
        view = program.view()
        return view.prompt_tokens, view.cached_tokens


def main() -> None:
    """Run all agents and print what the prefix cache saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8300", help="URL of thunderagent serve (%(default)s)")
    parser.add_argument("--model", default="simulated", help="model to ask for (%(default)s)")
    parser.add_argument("--agents", type=int, default=8, help="programs, all at once (%(default)s)")
    parser.add_argument("--turns", type=int, default=4, help="turns of each (%(default)s)")
    options = parser.parse_args()
    with Client(options.server) as client, ThreadPoolExecutor(options.agents) as pool, Progress() as progress:
        runs = [pool.submit(run_agent, client, options.model, n, options.turns) for n in range(options.agents)]
        results = [run.result() for run in progress.track(runs, description="agents")]
    prompt, cached = (sum(column) for column in zip(*results, strict=True))
    print(f"{len(results)} agents done; {prompt} prompt tokens, {cached} of them from the cache")


if __name__ == "__main__":
    main()
