"""Add-ons that lie on a mounted volume: where, and whether they are there. No torch: workers look before a job does."""

import errno
import os
from pathlib import Path
from typing import Final

from easel_contract.add_ons import AddOnConfig

from easel_server.engine.interface import GenerationError

SHOWN_FILES: Final = 8
NO_PATH: Final = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})  # whatever the volume holds


def is_on_volume(add_on: AddOnConfig) -> bool:
    """Whether it is a path of this machine, which nothing has to be fetched for."""
    return Path(add_on.source).is_absolute()


def find_on_volume(add_on: AddOnConfig) -> Path:
    """A path below the volume's root, wherever links lead. Raises GenerationError, OSError for a volume in trouble."""
    root = Path(add_on.source)
    path = root / add_on.file if add_on.file else root
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # which of the two isn't there is said below
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in NO_PATH:
            raise OSError(f"{add_on.describe()} can't be read now ({error.strerror}); check its volume") from error
        raise GenerationError(f"{add_on.describe()}: its path leads nowhere; correct it") from error
    if not root.exists():
        raise GenerationError(f"{add_on.describe()}: {root} doesn't exist; check that the volume is mounted there")
    if not path.exists():
        shown = sorted(each.name for each in path.parent.glob("*"))[:SHOWN_FILES]
        beside = f", beside it are: {', '.join(shown)}" if shown else ""
        raise GenerationError(f"{add_on.describe()} has no {add_on.file}; correct its path{beside}")
    if add_on.file and not path.resolve().is_relative_to(root.resolve()):
        raise GenerationError(f"{add_on.describe()}: {add_on.file} leads out of the volume; copy the file there")
    if not (path.is_file() or path.is_dir()):
        raise GenerationError(f"{add_on.describe()} is neither a file nor a directory; correct its path")
    if not os.access(path, os.R_OK):
        raise GenerationError(
            f"{add_on.describe()}: {path} can't be read by user {os.getuid()}, as whom workers run; change its "
            "permissions"
        )
    return path
