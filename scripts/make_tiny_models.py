"""Write tiny random models to a directory: ``python scripts/make_tiny_models.py DIRECTORY``.

Then ``easel-server --model DIRECTORY/sd15`` serves one on any laptop, without a download.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

# The tests build their models with the same code, which is no part of the package.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from tests.support.tiny_models import write_tiny_models


def main() -> None:
    """Write the models and say where."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="gets two sub-directories, sd15 and sdxl")
    directory = parser.parse_args().directory
    write_tiny_models(directory)
    sys.stdout.write(f"{directory / 'sd15'}\n{directory / 'sdxl'}\n")


if __name__ == "__main__":
    main()
