"""Settings from every source: which one wins, and what is said of what cannot be used."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from thunderagent_core.config import ConfigError, ServerConfig, load_config
from thunderagent_core.config.model import settings
from thunderagent_core.scheduling.settings import SchedulerSettings


def line_of(**sources):
    """Return the one line that is said of settings that cannot be used."""
    with pytest.raises(ConfigError) as caught:
        load_config(**sources)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_defaults_are_those_of_the_specification():
    config = load_config()
    assert config == ServerConfig()
    assert (config.host, config.port, config.policy, config.backends) == ("127.0.0.1", 8300, "paper", ())
    assert (config.max_wait_s, config.idle_lease_s, config.max_body_bytes) == (300.0, 1800.0, 32 * 1024 * 1024)


def test_later_sources_win(write):
    file = write("a.toml", 'port = 1\npolicy = "cap"\ncap_programs = 3\n')
    environ = {"THUNDERAGENT_PORT": "2", "THUNDERAGENT_POLICY": "ttl", "PATH": "/bin"}
    config = load_config(file=file, environ=environ, options={"port": "3", "host": None})
    assert (config.port, config.policy, config.cap_programs, config.host) == (3, "ttl", 3, "127.0.0.1")


@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_yaml_says_the_same_as_toml(write, ending):
    toml = write("a.toml", 'backends = ["http://a:1", "http://b:2/"]\ndiscount_shared_prefix = false\ntick_s = 2\n')
    yaml = write(f"a.{ending}", "backends: [http://a:1, http://b:2]\ndiscount_shared_prefix: false\ntick_s: 2.0\n")
    assert load_config(file=toml) == load_config(file=yaml)
    assert load_config(file=yaml).backends == ("http://a:1", "http://b:2")


def test_an_empty_yaml_file_sets_nothing(write):
    assert load_config(file=write("a.yaml", "# nothing yet\n")) == ServerConfig()


def test_every_setting_can_come_from_the_environment():
    given = {
        "host": ("::1", "::1"),
        "port": ("0", 0),
        "backends": ("http://a:1, https://b/", ("http://a:1", "https://b")),
        "policy": ("sticky", "sticky"),
        "tick_s": ("0.5", 0.5),
        "high_watermark": ("2", 2.0),
        "low_watermark": ("0.9", 0.9),
        "decay_base": ("1", 1.0),
        "decay_interval_s": ("3", 3.0),
        "growth_reserve_tokens": ("64", 64),
        "max_wait_s": ("10", 10.0),
        "idle_lease_s": ("11", 11.0),
        "interrupt_lease_s": ("12", 12.0),
        "home_window_s": ("0", 0.0),
        "discount_shared_prefix": ("No", False),
        "cap_programs": ("4", 4),
        "ttl_s": ("0", 0.0),
        "capacity_tokens": ("16384", 16384),
        "backend_api_key": ("engine-key", "engine-key"),
        "poll_interval_s": ("0.1", 0.1),
        "poll_timeout_s": ("0.2", 0.2),
        "lost_after_polls": ("1", 1),
        "startup_wait_s": ("5", 5.0),
        "response_timeout_s": ("60", 60.0),
        "max_body_bytes": ("1000", 1000),
        "api_keys": ("a,b", ("a", "b")),
        "shutdown_grace_s": ("0", 0.0),
        "trace": ("trace.jsonl", Path("trace.jsonl")),
        "log_level": ("debug", "debug"),
        "history_programs": ("0", 0),
        "prepare_ahead": ("0", 0),
        "environments": ("auto", "auto"),
        "state_dir": ("/srv/state", Path("/srv/state")),
        "docker_hosts": ("unix:///a, tcp://b:2375", ("unix:///a", "tcp://b:2375")),
        "environment_mount_roots": ("/etc", (Path("/etc"),)),
        "warm_pools": (__file__, Path(__file__)),
        "environment_max_creations": ("3", 3),
        "environment_creation_timeout_s": ("60", 60.0),
        "environment_freeze_after_s": ("0", 0.0),
        "environment_disk_budget_bytes": ("1000", 1000),
        "environment_disk_floor_bytes": ("0", 0),
        "environment_image_high_bytes": ("2000", 2000),
        "environment_image_low_bytes": ("0", 0),
        "environment_ports": ("20000-20100", "20000-20100"),
        "environment_quarantine_grace_s": ("0", 0.0),
        "environment_reconcile_interval_s": ("5", 5.0),
    }
    assert set(given) == set(settings())
    config = load_config(environ={f"THUNDERAGENT_{name.upper()}": text for name, (text, _) in given.items()})
    assert {name: getattr(config, name) for name in given} == {name: value for name, (_, value) in given.items()}


def test_empty_text_takes_an_optional_setting_back(write):
    file = write("a.toml", 'capacity_tokens = 5\nbackends = ["http://a"]\n')
    config = load_config(file=file, environ={"THUNDERAGENT_CAPACITY_TOKENS": "", "THUNDERAGENT_BACKENDS": ""})
    assert (config.capacity_tokens, config.backends) == (None, ())


def test_variables_of_the_other_commands_are_no_settings():
    environ = {"THUNDERAGENT_SERVER": "http://x", "THUNDERAGENT_API_KEY": "k", "THUNDERAGENT_CACHE": "/srv/cache"}
    assert load_config(environ=environ) == ServerConfig()


# Fault 11: silent configuration.


def test_an_unknown_key_in_a_file_names_the_nearest(write):
    file = write("a.toml", "tick = 2\n")
    assert line_of(file=file) == f"unknown setting tick (from {file}); the nearest known one is tick_s"


def test_an_unknown_variable_names_the_nearest():
    text = line_of(environ={"THUNDERAGENT_MAX_WAIT": "2"})
    assert text == (
        "unknown setting THUNDERAGENT_MAX_WAIT (from the environment); the nearest known one is THUNDERAGENT_MAX_WAIT_S"
    )


def test_a_key_that_is_no_text_is_unknown_too(write):
    assert "unknown setting 7 (from" in line_of(file=write("a.yaml", "7: x\n"))


def test_a_bad_value_is_told_with_its_source(write):
    file = write("a.yaml", "port: true\n")
    whole = "allowed: a whole number, from 0 to 65535"
    assert line_of(file=file) == f"port (from {file}): got True, {whole}"
    assert line_of(environ={"THUNDERAGENT_PORT": "http"}) == f"port (from THUNDERAGENT_PORT): got 'http', {whole}"
    assert line_of(options={"port": "65536"}) == f"port (from --port): got '65536', {whole}"


def test_lists_are_told_item_by_item():
    allowed = (
        "allowed: a list without repetition, each item an http:// or https:// URL without /v1, query, fragment or "
        "user, such as http://127.0.0.1:8000"
    )
    assert line_of(options={"backends": ["gpu1:8000"]}) == f"backends (from --backend): got ['gpu1:8000'], {allowed}"
    text = line_of(environ={"THUNDERAGENT_BACKENDS": "http://a,http://a/"})
    assert text == f"backends (from THUNDERAGENT_BACKENDS): got 'http://a,http://a/', {allowed}"


def test_each_watermark_can_be_set_by_itself():
    """The lower of them counts wherever programs are restored, so their order is no error."""
    assert load_config(options={"high_watermark": "0.9"}).low_watermark == 1.0
    assert load_config(environ={"THUNDERAGENT_LOW_WATERMARK": "1.2"}).high_watermark == 1.0


def test_secrets_are_never_shown():
    text = line_of(environ={"THUNDERAGENT_API_KEYS": "s3cret word"})
    assert text == (
        "api_keys (from THUNDERAGENT_API_KEYS): allowed: a list without repetition, "
        "each item printable ASCII without spaces or commas"
    )
    assert "s3cret" not in line_of(options={"backend_api_key": "s3cret\n"})
    assert "s3cret" not in repr(ServerConfig(api_keys=("s3cret",), backend_api_key="s3cret"))


def test_files_that_cannot_be_used(write, tmp_path):
    missing = tmp_path / "none.toml"
    assert line_of(file=missing) == (
        f"--config: got '{missing}', allowed: a file that can be read (No such file or directory)"
    )
    ini = write("a.ini", "")
    assert line_of(file=ini) == f"--config: got '{ini}', allowed: a file whose name ends in .toml, .yaml or .yml"
    listed = write("a.yaml", "- port\n")
    assert line_of(file=listed) == (
        f"--config: got '{listed}', allowed: a file of settings, one key and value for each"
    )
    assert "allowed: valid TOML (" in line_of(file=write("b.toml", "port = \n"))
    assert "allowed: valid YAML (" in line_of(file=write("b.yaml", "port: [\nhost: x"))
    binary = tmp_path / "c.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "allowed: valid TOML (" in line_of(file=binary)


def test_values_given_in_code_are_checked_as_well():
    with pytest.raises(ConfigError) as caught:
        ServerConfig(tick_s=0)
    assert str(caught.value) == "tick_s: got 0, allowed: a number, above 0"
    assert (caught.value.key, caught.value.source) == ("tick_s", None)


def test_the_scheduler_gets_what_was_set():
    config = ServerConfig(tick_s=0.25, cap_programs=2)
    assert config.scheduler_settings() == SchedulerSettings(tick_s=0.25, cap_programs=2)


def test_names_and_defaults_are_the_schedulers_own():
    core, config = SchedulerSettings(), ServerConfig()
    for field in fields(SchedulerSettings):
        assert getattr(config, field.name) == getattr(core, field.name)


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        ServerConfig().port = 1
