"""Environments as sandboxed processes of this machine, by bubblewrap: no daemon, no images needed."""
