"""Has diffusers import the models that are asked for, instead of all that it knows.

Four of its packages name every model in their ``__init__``, some 150 files with what these import in turn, and the
first UNet of Stable Diffusion pulls them all in. Their ``__init__`` does nothing but re-export, so that a name can as
well be looked up when it is asked for (PEP 562). One that does more, in another release, is imported as it is.
"""

import ast
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Final

LEAN_PACKAGES: Final = frozenset(
    f"diffusers.models.{name}" for name in ("autoencoders", "controlnets", "transformers", "unets")
)


def install_lean_imports() -> None:
    """From now on, for packages that nobody has imported yet; once is enough."""
    if not any(isinstance(each, _LeanFinder) for each in sys.meta_path):
        sys.meta_path.insert(0, _LeanFinder())


class _LeanFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in LEAN_PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return spec
        exports = read_exports(Path(spec.origin).read_text(encoding="utf-8"))
        if exports is not None:
            spec.loader = _LeanLoader(exports)
        return spec


class _LeanLoader(Loader):
    def __init__(self, exports: Mapping[str, str]) -> None:
        self._exports = exports

    def exec_module(self, module: ModuleType) -> None:
        exports, package = self._exports, module.__name__

        def look_up(name: str) -> Any:
            if name not in exports:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            return getattr(import_module(exports[name], package), name)

        vars(module).update(__getattr__=look_up, __dir__=lambda: sorted(exports))


def read_exports(source: str) -> dict[str, str] | None:
    """Which module each name comes from, of an ``__init__`` that only re-exports; None of one that does more.

    ``if is_torch_available():`` around the imports is no more: without torch there is no engine.
    """
    exports: dict[str, str] = {}
    statements = list(ast.parse(source).body)
    while statements:
        match statements.pop():
            case ast.If(test=ast.Call(func=ast.Name(id="is_torch_available"), args=[]), body=body, orelse=[]):
                statements += body
            case ast.ImportFrom(module=str(module), names=found, level=level) if level > 0:
                if any(each.name == "*" or each.asname is not None for each in found):
                    return None
                exports |= {each.name: "." * level + module for each in found}
            case _:
                return None
    return exports
