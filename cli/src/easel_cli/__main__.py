"""The console script: says how to get the libraries of the command line where an installation has none of them."""

import sys

from easel_contract import names

LIBRARIES = ("typer", "rich", "kubernetes", "httpx2", "httpcore2")


def run() -> int:
    """The exit status."""
    try:
        from easel_cli.main import main  # noqa: PLC0415 - of an optional extra

        return main()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in LIBRARIES:
            raise
        sys.stderr.write(f"easel: {error.name} isn't installed: {names.install_hint('cli')}\n")
        return 2


if __name__ == "__main__":
    sys.exit(run())
