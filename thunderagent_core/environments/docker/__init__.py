"""Environments as Docker containers, on one daemon or a small fleet. Needs the extra ``docker``."""
