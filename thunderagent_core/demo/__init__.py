"""Closed-loop agents as a load: what they do (``workload``), doing it (``agents``), what came of it (``summary``).

``thunderagent demo`` and ``benchmarks/agents.py`` run the same agents. Nothing here knows the server: it speaks HTTP.
"""
