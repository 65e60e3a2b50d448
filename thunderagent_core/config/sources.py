"""Where settings come from: defaults, a file, the environment, the command line; the later one wins."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from thunderagent_core.config.declaring import ConfigError, UnknownSettingError
from thunderagent_core.config.model import ServerConfig, bad_value, settings

if TYPE_CHECKING:
    from pathlib import Path

PREFIX: Final = "THUNDERAGENT_"
OTHER_VARIABLES: Final = frozenset(("THUNDERAGENT_SERVER", "THUNDERAGENT_API_KEY", "THUNDERAGENT_CACHE"))
"""What the commands that talk to a server read, and ``tests/run``; ``serve`` has no use for them, and no quarrel with
them."""


def load_config(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> ServerConfig:
    """Put the settings together.

    Args:
        file: TOML or YAML, by the ending of its name.
        environ: variables; those that begin with THUNDERAGENT_ are settings, all others are ignored.
        options: by setting name, from the command line: text, lists of text and booleans. None: not given.

    Raises:
        ConfigError: an unknown setting, a value that is not allowed, or a file that cannot be read.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if file is not None:
        _take_file(file, values, sources)
    _take_environment(environ or {}, values, sources)
    _take_options(options or {}, values, sources)
    try:
        return ServerConfig(**values)
    except ConfigError as error:
        raise ConfigError(error.key, error.given, error.allowed, sources.get(error.key, "the default")) from None


def _take_file(file: Path, values: dict[str, Any], sources: dict[str, str]) -> None:
    for key, value in _read(file).items():
        if key not in settings():
            raise _unknown(str(key), settings(), str(file))
        values[key], sources[key] = value, str(file)


def _take_environment(environ: Mapping[str, str], values: dict[str, Any], sources: dict[str, str]) -> None:
    known = {PREFIX + name.upper(): name for name in settings()}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        if variable not in known:
            raise _unknown(variable, known, "the environment")
        name = known[variable]
        values[name] = _parse(name, environ[variable], variable)
        sources[name] = variable


def _take_options(options: Mapping[str, Any], values: dict[str, Any], sources: dict[str, str]) -> None:
    for name, given in options.items():
        if given is None:
            continue
        flag = settings()[name].flag
        values[name] = _parse(name, given, flag) if isinstance(given, str) else given
        sources[name] = flag


def _parse(name: str, text: str, source: str) -> Any:
    try:
        return settings()[name].rule.from_text(text)
    except ValueError:
        raise bad_value(name, text, source) from None


def _unknown(key: str, known: Iterable[str], source: str) -> ConfigError:
    return UnknownSettingError(key, source, difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0])


def _read(file: Path) -> Mapping[Any, Any]:
    """Return the content of a settings file; an empty one is an empty mapping."""
    readers = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml}
    if file.suffix not in readers:
        raise ConfigError("--config", f"'{file}'", "a file whose name ends in .toml, .yaml or .yml")
    try:
        content = readers[file.suffix](file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("--config", f"'{file}'", f"a file that can be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError("--config", f"'{file}'", f"valid {file.suffix[1:].upper()} ({error})") from None
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError("--config", f"'{file}'", "a file of settings, one key and value for each")
    return content


def _toml(text: str) -> Any:
    import tomllib  # noqa: PLC0415 - only where a file is given, and only one of the two formats

    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    import yaml  # noqa: PLC0415 - only where a file is given, and only one of the two formats

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
