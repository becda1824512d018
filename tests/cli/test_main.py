"""What every command does: help, versions, errors without a traceback, completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from easel_cli import __main__ as script
from easel_cli.main import complete_for_kubectl
from easel_cli.release import find_release

from tests.cli.run import run_here, run_process

COMMANDS = ("status", "generate", "doctor", "init", "logs", "rollback", "usage", "simulate")


def test_the_commands_are_listed_where_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    done = run_here(capsys)
    assert done.status == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_and_takes(capsys: pytest.CaptureFixture[str], command: str) -> None:
    done = run_here(capsys, command, "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: easel {command} [OPTIONS]")
    assert "--json" in done.out


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(capsys, "--version").out == f"easel {find_release()}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat", "a fox"], "No such command 'generat'. Did you mean 'generate'?\nTry 'easel --help'."),
        (["status", "--colour"], "No such option: --colour"),
        (["generate"], "Missing argument 'PROMPT'.\nTry 'easel generate --help'."),
        (["generate", "a fox", "--n", "none"], "Invalid value for '--n'"),
        (["generate", "a fox", "--size", "large"], "WIDTHxHEIGHT in pixels, such as 1024x1024, is expected"),
        (["generate", "a fox", "--url", "http://x", "-s", "sdxl"], "--url and --service name two places"),
        (["logs"], "--job or --request is needed"),
        (["logs", "--job", "x", "--since", "yesterday"], "a time such as 90s, 15m, 3h or 2d, at most 30d, is expected"),
        (["rollback", "sdxl", "--clear", "--to", "3"], "--clear and --to say opposite things"),
        (["usage", "--since", "last month"], "a day such as 2026-11-01 is expected"),
        (["usage", "--since", "2026-11-02", "--until", "2026-11-01"], "the end must not come before the beginning"),
        (["usage", "--csv", "--json"], "leave one out"),
        (["simulate", "--service", "s.yaml"], "one of --trace and --from-prometheus is needed"),
    ],
)
def test_what_can_not_be_meant_is_said_in_a_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    done = run_here(capsys, *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("easel: ")
    assert message in done.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no way to a cluster: "),
        ("clusters: [", "no way to a cluster: "),
        ("[]", "no way to a cluster: "),
        (
            "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: "
            "'http://127.0.0.1:9'}}], users: [{name: c, user: {}}], contexts: [{name: c, context: {cluster: c, user: "
            "c}}]}",
            "no answer from the API server at http://127.0.0.1:9 to list services",
        ),
    ],
)
def test_a_cluster_that_can_not_be_reached_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    done = run_here(capsys, "status", "--kubeconfig", str(file))
    assert done.status == 1
    assert message in done.err
    assert "--context" in done.err


def test_a_process_prints_plain_lines_and_no_traceback(tmp_path: Path) -> None:
    done = run_process("status", KUBECONFIG=str(tmp_path / "none"), NO_COLOR="1")
    assert done.status == 1
    assert done.err.startswith("easel: no way to a cluster")
    assert "Traceback" not in done.err
    assert "\x1b" not in done.out + done.err


def test_libraries_that_are_missing_are_said_with_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "easel_cli.main", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    assert script.run() == 2
    assert capsys.readouterr().err == "easel: typer isn't installed: pip install '.[cli]' in a checkout of Easel\n"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_get_a_script_that_completes(shell: str) -> None:
    done = run_process("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.status == 0
    assert "_EASEL_COMPLETE" in done.out


def test_commands_are_completed() -> None:
    line = {"_EASEL_COMPLETE": "complete_bash", "COMP_WORDS": "easel ro", "COMP_CWORD": "1"}
    assert run_process(**line).out.split() == ["rollback"]


def test_kubectl_learns_what_may_follow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("_EASEL_COMPLETE", "COMP_WORDS", "COMP_CWORD"):
        monkeypatch.setenv(name, "")  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-easel", "ro"])
    assert complete_for_kubectl() == 0
    assert capsys.readouterr().out.split() == ["rollback", ":4"]


def test_names_are_not_completed_where_no_cluster_answers(tmp_path: Path) -> None:
    line = {"_EASEL_COMPLETE": "complete_bash", "COMP_WORDS": "easel status ", "COMP_CWORD": "2"}
    done = run_process(**line, KUBECONFIG=str(tmp_path / "none"))
    assert (done.out.strip(), done.err) == ("", "")


def test_whoever_reads_may_have_enough() -> None:
    """As with ``easel --help | head -0``: what is read from is closed before anything is written."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "easel_cli", "init", "sdxl", "--model", "some/model"],
            env=environment,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
