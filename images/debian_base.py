"""A stand-in for the base where no registry gives it: the same Python from Debian's packages, only where asked for."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from images.engine import Engine, EngineError
from images.plan import Base

RELEASE: Final = "trixie"  # its Python is 3.13, as the base's
PACKAGES: Final = ("ca-certificates", "python3", "python3-venv")
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
REPOSITORY: Final = "localhost/easel-base"
UNUSED: Final = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")


def provide(engine: Engine, platform: str) -> Base:
    """The stand-in, made once per engine and platform; says that it is none of the images that are released.

    Args:
        engine: gets it.
        platform: such as linux/arm64; empty: this machine's own. Another one's needs its emulator (qemu-user-static).

    Raises:
        EngineError: it couldn't be made.
    """
    base = name_base(platform)
    sys.stderr.write(
        f"images: BASE=debian: built on {base.reference}, Debian {RELEASE}'s Python. A stand-in: releases are built on "
        "the base that images/base.env names\n"
    )
    if not engine.has(base.reference):
        with tempfile.TemporaryDirectory(prefix="easel-base-") as folder:
            archive = Path(folder) / "base.tar"
            _make(archive, platform)
            engine.call(
                "import", *_list_platform(engine, platform), "--change", 'CMD ["python3"]', archive, base.reference
            )
    return base


def name_base(platform: str) -> Base:
    """Its name in the engine."""
    return Base("-".join([f"{REPOSITORY}:debian-{RELEASE}", *platform.split("/")[1:]]), "")


def _list_platform(engine: Engine, platform: str) -> list[str]:
    if not platform:
        return []
    return ["--platform", platform] if engine.program == "docker" else ["--arch", platform.split("/")[1]]


def _make(archive: Path, platform: str) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise EngineError("BASE=debian needs mmdebstrap, which isn't installed: images/setup.sh brings it")
    clean = " ".join(f'"$1"/{folder}/*' for folder in UNUSED)
    command = [
        *(program, "--quiet", "--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(PACKAGES)}"),
        *([f"--architectures={platform.split('/')[1]}"] if platform else []),
        *('--customize-hook=ln -s python3 "$1/usr/bin/python"', f"--customize-hook=rm -rf {clean}"),
        *(RELEASE, str(archive)),
    ]
    done = subprocess.run(command, check=False, stdout=sys.stderr, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})
    if done.returncode != 0:
        raise EngineError(f"mmdebstrap ended with {done.returncode} (see above): BASE=debian needs Debian's mirror")
