"""The pure core: facts in, orders out. Standard library only; it reads no clock, waits for nothing, logs nothing."""
