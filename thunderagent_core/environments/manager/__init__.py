"""Environments belong to programs: prepared ahead, kept while the program lives, reclaimed for certain."""

from thunderagent_core.environments.manager.manager import Manager
from thunderagent_core.environments.manager.settings import ManagerSettings, WarmPool

__all__ = ["Manager", "ManagerSettings", "WarmPool"]
