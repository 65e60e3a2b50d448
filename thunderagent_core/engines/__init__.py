"""The LLM engines, seen from outside: their load and cache, their events, their streams.

``base`` is what the server needs of any engine, ``vllm`` and ``sglang`` are the two that exist, ``discovery``
tells them apart, ``kv_events`` follows what their caches hold. ``simulated`` is an engine of our own, for tests
and demonstrations. Nothing here knows of programs or of scheduling.
"""
