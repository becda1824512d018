"""What a simulation's result depends on of the code: a hash of the sources of all modules that it can reach.

Modules are found by their import statements, so nothing is imported. Only those of this repository count; what else
decides (the interpreter's and numpy's version) is part of the hash by its version.
"""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

OURS: Final = ("easel_operator", "easel_contract")
LIBRARIES: Final = ("numpy", "pydantic")


def hash_code(roots: Sequence[str], closed: Collection[str] = ()) -> str:
    """Of the modules ``roots`` and all that they import, in turn. ``closed``: modules whose own text counts, but not
    what they import. Raises ModuleNotFoundError."""
    digest = hashlib.sha256(sys.version.encode())
    for library in LIBRARIES:
        digest.update(f"{library} {_find_version(library)}\n".encode())
    for name in sorted(find_modules(roots, closed)):
        digest.update(f"{name}\n".encode())
        digest.update(_read(name)[0])
    return digest.hexdigest()


def find_modules(roots: Sequence[str], closed: Collection[str] = ()) -> frozenset[str]:
    """The names of all modules that are reached."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if "." in name:
            todo.append(name.rpartition(".")[0])  # a package is imported before its module
        if name not in closed:
            todo += _read(name)[1]
    return frozenset(found)


@cache
def _read(name: str) -> tuple[bytes, tuple[str, ...]]:
    """A module's text, and the modules of OURS that it imports."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source of {name} was found")
    text = Path(spec.origin).read_bytes()
    return text, tuple(_list_imports(ast.parse(text)))


def _list_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            yield node.module
            submodules = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in submodules if _is_module(name))


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in OURS


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module and no package: it names a value in it
        return False


def _find_version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
