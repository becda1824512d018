"""``easel init`` as it is typed: files that kubectl takes, and secrets that only their owner reads."""

import stat
from pathlib import Path

import pytest
import yaml

from tests.cli.run import run_here


def test_it_prints_what_kubectl_applies(capsys: pytest.CaptureFixture[str]) -> None:
    done = run_here(capsys, "init", "sdxl", "--model", "some/model", "--customer", "acme")
    assert done.status == 0
    secret, service = yaml.safe_load_all(done.out)
    assert (secret["kind"], service["kind"]) == ("Secret", "StableDiffusionService")
    assert secret["stringData"]["acme"].startswith("esl_live_")
    assert "kubectl apply -f FILE" in done.err


def test_a_file_with_keys_is_its_owners_and_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sdxl.yaml"
    command = ("init", "sdxl", "--model", "some/model", "--customer", "acme", "--output", str(file))
    assert run_here(capsys, *command).status == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    done = run_here(capsys, *command)
    assert (done.status, file.read_text()) == (2, before)
    assert f"{file} exists and isn't overwritten" in done.err


def test_a_token_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("init", "sdxl", "--model", "some/model", "--with-hub-token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "HF_TOKEN isn't set" in run_here(capsys, *command).err
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    secret, service = yaml.safe_load_all(run_here(capsys, *command).out)
    assert secret["stringData"] == {"token": "hf_secret"}
    assert service["spec"]["model"]["source"]["huggingFace"]["tokenSecretName"] == secret["metadata"]["name"]


def test_without_a_terminal_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    done = run_here(capsys, "init")
    assert done.status == 2
    assert "NAME and --model is needed where there is no terminal" in done.err


def test_a_terminal_is_asked_for_what_was_not_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["some/model", "6"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda _text, default=None: type(default or "")(next(answers)))
    (service,) = yaml.safe_load_all(run_here(capsys, "init", "sdxl").out)
    assert service["metadata"]["name"] == "sdxl"
    assert service["spec"]["scaling"]["maxReplicas"] == 6
