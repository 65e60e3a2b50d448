"""A simulated LLM engine: vLLM's routes, cache and scheduling over a clock instead of a model.

It is for tests, demos and machines without a GPU, and every answer of it says that it is simulated. Read
``model`` first: ``EngineModel`` is the engine as pure state, with time as an argument, so that a
discrete-event simulator may drive it as well as ``runner`` does in (scaled) real time. ``engine`` serves it
over HTTP, and ``docs/simulated-engine.md`` says what is modelled and what is not. Importing this package
loads none of them.
"""
