"""Write tiny random models to a directory: ``python scripts/make_tiny_models.py DIRECTORY``.

Then ``easel-server --model DIRECTORY/sd15`` serves one on any laptop, without a download. With add-ons for it:
``--adapter ink=DIRECTORY/add-ons/ink.safetensors --control-net canny=DIRECTORY/add-ons/canny``, and
``--upscaler sharp=DIRECTORY/add-ons/sharp.safetensors``.
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
    parser.add_argument("directory", type=Path, help="gets sub-directories: sd15, sdxl, and add-ons for the first")
    directory = parser.parse_args().directory
    write_tiny_models(directory)
    sys.stdout.write(f"{directory / 'sd15'}\n{directory / 'sdxl'}\n{directory / 'add-ons'}\n")


if __name__ == "__main__":
    main()
