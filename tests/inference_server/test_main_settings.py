"""What a process reads at its start, and the one line that it says when that is wrong."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from easel_contract import names
from easel_contract.server_config import EngineKind
from easel_server import main
from easel_server.config import Role, SettingsError, read_settings
from easel_server.main import Process, _cancel
from easel_server.start import report_end, run
from easel_server.transport.server import EmbeddedServer
from easel_server.worker.engine_health import EngineFailedError

from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

REDIS = {"EASEL_REDIS_URL": "redis://user:hush@redis:6379/0"}


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "models" / "dreamy"
    directory.mkdir(parents=True)
    return directory


def test_a_directory_is_served_under_its_own_name(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    settings = read_settings(["--model", "./dreamy"], {})
    assert settings.role is Role.ALL
    assert (settings.config.model.name, settings.config.model.source) == ("dreamy", str(model))
    assert (settings.host, settings.port, settings.redis_url) == ("127.0.0.1", 8080, None)


def test_only_what_asks_for_keys_listens_on_all_interfaces_by_itself(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"model": {"name": "m", "source": "/models"}, "gateway": {"apiKeysDirectory": "/keys"}}')
    assert read_settings(["--config", str(file)], {}).host == "0.0.0.0"
    assert read_settings(["--model", "m"], {}).host == "127.0.0.1"
    assert read_settings(["--model", "m", "--host", "0.0.0.0"], {}).host == "0.0.0.0"


def test_hosts_and_origins_of_the_command_line_come_on_top_of_the_files(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"model": {"name": "m", "source": "/models"}, "gateway": {"allowedHosts": ["a.example"]}}')
    arguments = ["--config", str(file), "--allowed-host", "b.example", "--allowed-origin", "https://c.example"]
    gateway = read_settings(arguments, {}).config.gateway
    assert gateway.allowed_hosts == ("a.example", "b.example")
    assert gateway.allowed_origins == ("https://c.example",)


@pytest.mark.parametrize("words", [("--allowed-host", "a/b"), ("--allowed-origin", "c.example")])
def test_a_host_or_an_origin_that_is_none_is_refused_with_what_was_seen(words):
    with pytest.raises(SettingsError, match=words[1]):
        read_settings(["--model", "m", *words], {})


def test_a_host_with_a_scheme_is_refused_in_words_and_not_by_a_pattern():
    with pytest.raises(SettingsError, match="must be a host's name without scheme and port, such as images") as caught:
        read_settings(["--model", "m", "--allowed-host", "https://images.example.com"], {})
    assert "pattern" not in str(caught.value)


def test_keys_of_links_that_are_too_short_are_refused_without_showing_them():
    with pytest.raises(SettingsError, match="32 characters") as caught:
        read_settings(["--model", "m"], {"EASEL_LINK_KEYS": f"{'k' * 32} a-short-one"})
    assert "a-short-one" not in str(caught.value)


def test_anything_else_is_an_id_on_the_hub():
    model = read_settings(["--model", "owner/model"], {}).config.model
    assert (model.name, model.source) == ("owner/model", "owner/model")


@pytest.mark.parametrize("path", ["/no/such/model", "./no-such-model", "../no-such-model"])
def test_a_path_that_is_missing_stays_a_path(path):
    assert read_settings(["--model", path], {}).config.model.source.startswith("/")


def test_the_synthetic_engine_needs_no_model_and_takes_any_name():
    config = read_settings(["--engine", "synthetic"], {}).config
    assert (config.engine.kind, config.model.name) == (EngineKind.SYNTHETIC, "synthetic")
    config = read_settings(["--engine", "synthetic", "--model", "owner/model"], {}).config
    assert (config.engine.kind, config.model.name) == (EngineKind.SYNTHETIC, "owner/model")


def test_the_engine_of_the_command_line_wins_and_keeps_the_files_times(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(
        '{"model": {"name": "m", "source": "/models"}, '
        '"engine": {"kind": "Diffusers", "synthetic": {"millisecondsPerStep": 7}}}'
    )
    arguments = ["--config", str(file)]
    assert read_settings(arguments, {}).config.engine.kind is EngineKind.DIFFUSERS
    engine = read_settings([*arguments, "--engine", "synthetic"], {}).config.engine
    assert (engine.kind, engine.synthetic.milliseconds_per_step) == (EngineKind.SYNTHETIC, 7)


def test_the_operators_file_is_read(tmp_path):
    file = tmp_path / "gateway.json"
    file.write_text('{"namespace": "n", "service": "s", "model": {"name": "m", "source": "/models"}}')
    settings = read_settings(["--role", "gateway", "--config", str(file)], {**REDIS, "EASEL_POD_NAME": "pod-1"})
    assert (settings.config.namespace, settings.config.model.name, settings.pod_name) == ("n", "m", "pod-1")


def test_webhooks_are_signed_with_each_secret(model):
    settings = read_settings(["--model", str(model)], {"EASEL_WEBHOOK_SECRET": " whsec_aHVzaA==\nwhsec_bmV3 "})
    assert settings.webhook_secrets == ("whsec_aHVzaA==", "whsec_bmV3")


def test_secrets_stay_out_of_the_settings_text(model):
    environment = {**REDIS, "EASEL_WEBHOOK_SECRET": "whsec_aHVzaA==", "HF_TOKEN": "hf_hush"}
    settings = read_settings(["--model", str(model)], environment)
    assert settings.hub_token == "hf_hush"
    assert not any(word in repr(settings) for word in ("hush", "aHVzaA=="))


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_a_role_that_shares_needs_a_redis(model, role):
    with pytest.raises(SettingsError, match=f"role {role} needs a Redis .* set EASEL_REDIS_URL, .* or .*--role all"):
        read_settings(["--role", role, "--model", str(model)], {})


REFUSED = {
    "no model": ([], {}, "say which model to serve: --model DIRECTORY_OR_HUB_ID, or --config FILE"),
    "no such file": (["--config", "/no/such/file"], {}, "configuration file /no/such/file can't be read: No such file"),
    "a log level": (
        ["--model", "m"],
        {"EASEL_LOG_LEVEL": "loud"},
        "EASEL_LOG_LEVEL='loud': must be one of debug, info",
    ),
    "one secret of two": (
        ["--model", "m"],
        {"EASEL_WEBHOOK_SECRET": "whsec_aHVzaA== whsec_"},
        "EASEL_WEBHOOK_SECRET is not base64; make one with",
    ),
    "a secret": (
        ["--model", "m"],
        {"EASEL_WEBHOOK_SECRET": "p@ss"},
        "EASEL_WEBHOOK_SECRET is not base64; make one with",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_one_line(case):
    arguments, environment, message = REFUSED[case]
    with pytest.raises(SettingsError) as caught:
        read_settings(arguments, environment)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_fault_of_a_file_is_named(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model": {"name": ""}, "gateway": {"limits": {"maxStep": 3}}}))
    with pytest.raises(SettingsError) as caught:
        read_settings(["--config", str(file)], {})
    for fault in ("model.name: String should have", "model.source: Field required", "gateway.limits.maxStep: Extra"):
        assert fault in str(caught.value)


def test_the_reason_of_a_failed_load_is_left_for_kubernetes(tmp_path, capsys):
    log = tmp_path / "termination-log"
    log.write_text("what was there before, and longer than the new message")
    report_end("model m: gone", log)
    assert log.read_text() == "model m: gone"
    assert capsys.readouterr().err == "easel-server: model m: gone\n"


def test_a_broken_engine_has_an_exit_code_of_its_own(monkeypatch, capsys):
    async def work(self):
        raise EngineFailedError("the engine failed with RuntimeError: device-side assert")

    monkeypatch.setattr(Process, "_work", work)
    assert run(["--engine", "synthetic", "--host", "127.0.0.1", "--port", "0"]) == names.EXIT_ENGINE_FAILED == 70
    assert capsys.readouterr().err == "easel-server: the engine failed with RuntimeError: device-side assert\n"


def test_a_reaper_that_fails_is_begun_again_and_the_process_goes_on(monkeypatch):
    calls = []

    async def reap(*arguments, **options):
        calls.append(arguments)
        if len(calls) > 1:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        raise KeyError("one bad record")

    monkeypatch.setattr(main, "reap_forever", reap)
    assert run(["--engine", "synthetic", "--host", "127.0.0.1", "--port", "0"]) == 0
    assert len(calls) == 2


def test_a_server_that_ends_by_itself_ends_the_process(monkeypatch):
    async def on_tick(self, counter):
        if counter > 0:  # it has served for a while: uvicorn calls this ten times a second
            raise KeyError("a bug of the server")
        return False

    monkeypatch.setattr(EmbeddedServer, "on_tick", on_tick)  # not of servers that other tests left running
    with pytest.raises(KeyError, match="a bug of the server"):
        run(["--engine", "synthetic", "--host", "127.0.0.1", "--port", "0"])


def test_a_long_reason_is_cut_to_what_kubernetes_keeps(tmp_path):
    log = tmp_path / "termination-log"
    log.touch()
    report_end("x" * 9000, log)
    assert log.stat().st_size == 4096


def test_outside_a_pod_no_termination_log_is_made(tmp_path):
    report_end("model m: gone", tmp_path / "termination-log")
    assert list(tmp_path.iterdir()) == []


def test_without_a_redis_the_process_ends_with_one_line():
    with ServerProcess("--role", "worker", "--model", "m") as server:
        assert server.wait() == 2
        assert server.errors.startswith("easel-server: role worker needs a Redis")
        assert server.errors.count("\n") == 1


def test_a_redis_url_of_another_kind_is_refused_without_its_password():
    url = "http://user:secret@redis"
    with ServerProcess("--role", "gateway", "--model", "m", EASEL_REDIS_URL=url) as server:
        assert server.wait() == 2
        assert server.errors.startswith("easel-server: EASEL_REDIS_URL is no address of a Redis")
        assert "secret" not in server.errors


@pytest.mark.parametrize("role", ["worker", "all"])
def test_a_missing_model_ends_the_process_with_its_own_code_and_no_traceback(tmp_path, role):
    with (
        RedisServer() as redis,
        ServerProcess("--role", role, "--model", str(tmp_path / "gone"), EASEL_REDIS_URL=redis.url) as server,
    ):
        assert server.wait() == 78
        assert server.errors.startswith(f"easel-server: model gone: directory {tmp_path}/gone does not exist; check")
        assert server.errors.count("\n") == 1


def test_a_memcached_whose_client_is_missing_is_a_settings_error_that_says_what_to_do(tmp_path):
    program = """
import sys
sys.modules["emcache"] = None
from easel_server.start import report_end, run
sys.exit(run(["--config", sys.argv[1]]))
"""
    cache = {"backend": "Memcached", "memcached_address": "memcached:11211"}
    model = {"name": "m", "source": str(tmp_path)}
    file = tmp_path / "server.json"
    file.write_text(json.dumps({"namespace": "n", "service": "s", "model": model, "gateway": {"cache": cache}}))
    command = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "gateway.cache.memcachedAddress is set" in done.stderr
    assert "pip install '.[memcached]'" in done.stderr


def test_a_gateway_never_loads_torch():
    program = "import sys, easel_server.main; print([m for m in ('torch', 'diffusers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.redis
def test_a_gateway_serves_drains_and_ends_with_zero(model):
    with (
        RedisServer() as redis,
        ServerProcess("--role", "gateway", "--model", str(model), EASEL_REDIS_URL=redis.url) as server,
    ):
        server.wait_until_ready()
        server.terminate()
        assert server.wait() == 0
        assert server.errors == ""


@pytest.mark.redis
def test_a_port_that_is_taken_is_named(model):
    with (
        RedisServer() as redis,
        ServerProcess("--role", "gateway", "--model", str(model), EASEL_REDIS_URL=redis.url) as first,
    ):
        port = int(first.wait_until_listening().url.rsplit(":", 1)[1])
        with ServerProcess("--role", "gateway", "--model", str(model), port=port, EASEL_REDIS_URL=redis.url) as second:
            assert second.wait() == 2
            assert f"can't listen on 127.0.0.1 port {port}" in second.errors


async def test_a_task_that_swallows_its_cancellation_is_cancelled_again():
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await _cancel([task])
    assert task.cancelled()


@pytest.mark.parametrize(
    ("given", "source", "file"),
    [
        ("ink=someone/ink", "someone/ink", None),
        ("ink=someone/loras:sub/ink.safetensors", "someone/loras", "sub/ink.safetensors"),
        ("ink=https://example.com/ink.safetensors", "https://example.com/ink.safetensors", None),
        ("ink=s3://bucket/ink.safetensors", "s3://bucket/ink.safetensors", None),
        ("ink=s3://bucket/loras:ink.safetensors", "s3://bucket/loras", "ink.safetensors"),
        ("ink=/loras/ink:1.safetensors", "/loras/ink:1.safetensors", None),
        (" a b = someone/ink=x", "someone/ink=x", None),
    ],
)
def test_add_ons_are_given_on_the_command_line(given: str, source: str, file: str | None) -> None:
    arguments = ["--engine", "synthetic", "--adapter", given, "--control-net", "canny=a/canny", "--upscaler", "4x=a/4x"]
    arguments += ["--preprocessor", "depth=a/depth"]
    add_ons = read_settings(arguments, {}).config.add_ons
    [adapter] = add_ons.adapters
    assert (adapter.source.strip(), adapter.file) == (source, file)
    assert adapter.name == given.partition("=")[0].strip()
    assert (add_ons.control_nets[0].name, add_ons.upscalers[0].source) == ("canny", "a/4x")
    assert [each.name for each in add_ons.preprocessors] == ["depth"]


@pytest.mark.parametrize("given", ["ink", "ink=", "=someone/ink", "ink= "])
def test_an_add_on_without_a_name_or_a_source_says_how_it_is_given(given: str) -> None:
    with pytest.raises(SettingsError, match="must be NAME=SOURCE or NAME=SOURCE:FILE, such as"):
        read_settings(["--engine", "synthetic", "--adapter", given], {})


def test_two_add_ons_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match="'ink' is given twice"):
        read_settings(["--engine", "synthetic", "--adapter", "ink=a/b", "--adapter", "ink=c/d"], {})
