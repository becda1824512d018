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
BASE: Final = Base(f"localhost/easel-base:debian-{RELEASE}", "")
UNUSED: Final = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")


def provide(engine: Engine) -> Base:
    """The stand-in, made once per engine; says that it is none of the images that are released. Raises EngineError."""
    sys.stderr.write(
        f"images: BASE=debian: built on {BASE.reference}, Debian {RELEASE}'s Python. A stand-in: releases are built on "
        "the base that images/base.env names\n"
    )
    if not engine.has(BASE.reference):
        with tempfile.TemporaryDirectory(prefix="easel-base-") as folder:
            archive = Path(folder) / "base.tar"
            _make(archive)
            engine.call("import", "--change", 'CMD ["python3"]', archive, BASE.reference)
    return BASE


def _make(archive: Path) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise EngineError("BASE=debian needs mmdebstrap, which isn't installed: images/setup.sh brings it")
    clean = " ".join(f'"$1"/{folder}/*' for folder in UNUSED)
    command = [
        *(program, "--quiet", "--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(PACKAGES)}"),
        *('--customize-hook=ln -s python3 "$1/usr/bin/python"', f"--customize-hook=rm -rf {clean}"),
        *(RELEASE, str(archive)),
    ]
    done = subprocess.run(command, check=False, stdout=sys.stderr, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})
    if done.returncode != 0:
        raise EngineError(f"mmdebstrap ended with {done.returncode} (see above): BASE=debian needs Debian's mirror")
