"""The server's settings: what they are (``model``), may be (``rules``) and come from (``sources``)."""

from thunderagent_core.config.declaring import ConfigError
from thunderagent_core.config.model import ServerConfig
from thunderagent_core.config.sources import load_config

__all__ = ["ConfigError", "ServerConfig", "load_config"]
