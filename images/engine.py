"""The container engine: the one of docker and podman that answers, which a client on the PATH alone doesn't."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAMS: Final = ("docker", "podman")
ANSWER_SECONDS: Final = 20
ENV_ENGINE: Final = "ENGINE"
CONTAINERS_CONF: Final = Path(__file__).with_name("containers.conf")
UNIFIED_CGROUPS: Final = Path("/sys/fs/cgroup/cgroup.controllers")


class EngineError(Exception):
    """No engine answers, or what it was asked for failed; the message says which, and what to do."""


@dataclass(frozen=True)
class Engine:
    """An engine that answers."""

    program: str  # docker | podman
    environment: Mapping[str, str]

    def call(self, *words: str | Path, timeout_seconds: float | None = None) -> str:
        """Standard output of the client. Raises EngineError with what it said."""
        command = [self.program, *(str(word) for word in words)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=self.environment, timeout=timeout_seconds
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"{' '.join(command[:2])}: no answer within {timeout_seconds:g} s") from None
        if done.returncode != 0:
            raise EngineError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def show(self, *words: str | Path) -> None:
        """Run the client with its output for whoever looks on. Raises EngineError."""
        command = [self.program, *(str(word) for word in words)]
        if (code := subprocess.run(command, check=False, env=self.environment).returncode) != 0:
            raise EngineError(f"{' '.join(command[:2])} ended with {code} (see above)")

    def has(self, image: str) -> bool:
        """Whether the engine has an image of this name; nothing is pulled."""
        command = [self.program, "image", "inspect", image]
        return subprocess.run(command, capture_output=True, check=False, env=self.environment).returncode == 0


def choose_programs(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Those to be asked, in their order: the one that ENGINE names, else docker before podman. Raises EngineError."""
    said = environment.get(ENV_ENGINE, "")
    if said and said not in PROGRAMS:
        raise EngineError(f"{ENV_ENGINE} is {said!r}: may be {' or '.join(PROGRAMS)}, or unset")
    return (said,) if said else PROGRAMS


def build_environment(program: str, environment: Mapping[str, str], *, has_unified_cgroups: bool) -> dict[str, str]:
    """What an engine is run with: podman gets the settings that control groups v1 ask for, unless it is told others."""
    extra = {} if program == "docker" or has_unified_cgroups else {"CONTAINERS_CONF": str(CONTAINERS_CONF)}
    return {**extra, **environment}


def find_engine(environment: Mapping[str, str] = os.environ, *, programs: Sequence[str] | None = None) -> Engine:
    """The first that answers ``info``. Raises EngineError with what each one said."""
    said: list[str] = []
    for program in choose_programs(environment) if programs is None else programs:
        engine = Engine(program, build_environment(program, environment, has_unified_cgroups=UNIFIED_CGROUPS.exists()))
        try:
            engine.call("info", timeout_seconds=ANSWER_SECONDS)
        except FileNotFoundError:
            said.append(f"{program}: not installed")
        except EngineError as error:
            said.append(str(error).replace("\n", " "))
        else:
            return engine
    raise EngineError(
        "no container engine answers. Start or install docker or podman (images/setup.sh brings podman from Debian's "
        f"packages). {'; '.join(said)}"
    )
