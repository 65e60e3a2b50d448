"""A real vLLM on the CPU for tests and benchmarks.

``python -m benchmarks.testbed setup`` makes it, ``… serve`` runs one in the foreground, ``… record`` keeps its
answers for the tests that must run without it. From Python: ``with RealVllm() as engine: engine.url``.
"""

from benchmarks.testbed.command import EngineOptions
from benchmarks.testbed.engine import EngineStartError, RealVllm
from benchmarks.testbed.layout import Layout, SetupError

__all__ = ["EngineOptions", "EngineStartError", "Layout", "RealVllm", "SetupError"]
