"""``thunderagent demo``."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from thunderagent_core.cli.escaping import escaped
from thunderagent_core.cli.failure import FAILED, USAGE, fail, failing_on

if TYPE_CHECKING:
    from thunderagent_core.config.rules import Rule
    from thunderagent_core.demo.comparison import Arm, DemoSettings

_DEFAULT_POLICIES = ["passthrough", "paper"]
_TOOLS = ("auto", "docker", "process", "none")


_HELP = """Run a batch of agents through the scheduler and through a pass-through, and compare. Under a minute.

The engine is simulated and needs no GPU; with --backend it is yours, and its prefix cache is reset between the
runs where it offers that (vLLM with VLLM_SERVER_DEV_MODE=1).

A tool is only waited for, unless --tools says where it runs: then it is a real command in a sandbox of its agent's
own, which the server makes and takes back. auto takes containers where Docker answers and has an image of busybox,
alpine, debian or python, else bubblewrap. That takes longer.

Examples:

  thunderagent demo

  thunderagent demo --policy passthrough --policy cap --policy paper

  thunderagent demo --tools process

  thunderagent demo --backend http://127.0.0.1:8000 --programs 16
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", help=_HELP)(demo)


def demo(
    *,
    backend: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Use this engine. Default: start a simulated one.", show_default=False),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A policy to run, in this order; repeatable. Default: passthrough, paper."),
    ] = None,
    programs: Annotated[int, typer.Option(min=1, help="Agents at work at the same time.")] = 24,
    turns: Annotated[int, typer.Option(min=1, help="Requests of each agent.")] = 8,
    tool_s: Annotated[float, typer.Option(min=0, help="Mean time of a tool in seconds, drawn from e^-t.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Seed of all sizes and times.")] = 1,
    pool_tokens: Annotated[
        int | None, typer.Option(min=64, help="KV cache of the simulated engine in tokens. Default: 16384.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="Run the simulated engine, tools and scheduler this much faster. Default: 8.")
    ] = None,
    tools: Annotated[
        str, typer.Option(metavar="KIND", help="Where tools run: auto, docker, process, or none: they are waited for.")
    ] = "none",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run a batch of agents through the scheduler and through a pass-through, and compare. Under a minute."""
    from thunderagent_core.config.rules import Choice  # noqa: PLC0415 - loaded by this command alone

    if backend is not None and (pool_tokens is not None or speed is not None):
        fail("--pool-tokens and --speed are for the simulated engine, which --backend replaces", USAGE)
    given = {"pool_tokens": pool_tokens, "speed": speed, "backend": backend}
    with failing_on(ValueError, status=USAGE):
        settings = _settings(
            {name: value for name, value in given.items() if value is not None},
            tuple(policy or _DEFAULT_POLICIES),
            {"programs": programs, "turns": turns, "tool_s": tool_s, "seed": seed},
        )
        _check("tools", tools, Choice(_TOOLS))
    _run(settings, tools, as_json=as_json)


def _settings(given: dict[str, Any], policies: tuple[str, ...], load: dict[str, Any]) -> DemoSettings:
    """Check and put together what was asked for. Raises ValueError."""
    from thunderagent_core.config.rules import Choice, EngineUrl, Number  # noqa: PLC0415 - loaded by this command alone
    from thunderagent_core.demo.comparison import DemoSettings  # noqa: PLC0415 - loaded by this command alone
    from thunderagent_core.demo.workload import Workload  # noqa: PLC0415 - loaded by this command alone
    from thunderagent_core.scheduling.policies import POLICY_NAMES  # noqa: PLC0415 - loaded by this command alone

    for name in policies:
        _check("policy", name, Choice(POLICY_NAMES))
    rules: dict[str, Rule] = {"speed": Number(0, above=True), "backend": EngineUrl()}
    for name, rule in rules.items():
        if name in given:
            given[name] = _check(name, given[name], rule)
    return DemoSettings(workload=Workload(**load), policies=policies, **given)


def _check(name: str, value: Any, rule: Rule) -> Any:
    try:
        return rule.checked(value)
    except ValueError:
        raise ValueError(f"--{name}: got {value!r}, allowed: {rule.allowed}") from None


def _run(settings: DemoSettings, tools: str, *, as_json: bool) -> None:
    import asyncio  # noqa: PLC0415 - loaded by this command alone

    from thunderagent_core.cli.demo_display import print_arms, print_json  # noqa: PLC0415 - as above
    from thunderagent_core.demo.children import ChildError  # noqa: PLC0415 - as above
    from thunderagent_core.demo.comparison import DemoError  # noqa: PLC0415 - as above

    try:
        with failing_on(ChildError, DemoError):
            settings, arms = asyncio.run(_compare(settings, tools))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except asyncio.CancelledError:
        _die()
    if as_json:
        print_json(arms, settings)
    else:
        print_arms(arms, settings)
    _fail_on_errors(arms)


async def _compare(settings: DemoSettings, tools: str) -> tuple[DemoSettings, list[Arm]]:
    """Find out where tools can run, then run everything. Cancelled by SIGTERM. Raises DemoError and ChildError."""
    import asyncio  # noqa: PLC0415 - loaded by this command alone

    from thunderagent_core.cli.demo_display import Display  # noqa: PLC0415 - as above
    from thunderagent_core.cli.demo_tools import find_tools  # noqa: PLC0415 - as above
    from thunderagent_core.demo.comparison import compare  # noqa: PLC0415 - as above

    this = asyncio.current_task()
    assert this is not None  # noqa: S101 - a coroutine runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    settings = replace(settings, tools=await find_tools(tools))
    with Display(settings) as display:
        return settings, await compare(settings, display)


def _die() -> NoReturn:
    """End as SIGTERM ends a process that does not heed it: everything is cleared away by now."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("SIGTERM ends a process")


def _fail_on_errors(arms: list[Arm]) -> None:
    errors = [f"{arm.policy}: {error}" for arm in arms for error in arm.errors]
    for error in errors:
        typer.echo(f"thunderagent: an agent failed: {escaped(error)}", err=True)
    if errors:
        raise typer.Exit(FAILED)
