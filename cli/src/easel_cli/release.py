"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from easel_contract import names

OF_A_CHECKOUT: Final = "0.0.0+checkout"


def find_release() -> str:
    """Of the installed distribution, whose images and chart have the same."""
    try:
        return version(names.DISTRIBUTION)
    except PackageNotFoundError:  # a checkout on the path
        return OF_A_CHECKOUT
