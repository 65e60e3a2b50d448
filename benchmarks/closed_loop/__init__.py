"""What ``benchmarks/agents.py`` is made of: arms, the engine behind them, one session of runs, figures, reports."""
