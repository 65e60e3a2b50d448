"""An honest imitation of a sandbox technology, in memory, that can be told to fail in every way; for tests."""
