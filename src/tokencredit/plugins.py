"""Users' own components: files and modules that register themselves before composing."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import cloudpickle

from tokencredit.canonical import file_sha256
from tokencredit.errors import UserError

ENTRY_POINTS = "tokencredit.plugins"


def import_file(path: Path) -> ModuleType:
    """The module in a Python file, imported once under a name of its own."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{path}: there is no such Python file")
    name = f"tokencredit_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    # A launcher's worker process cannot import the file by this name: it gets the classes whole.
    cloudpickle.register_pickle_by_value(module)
    return module


def load_plugins(plugins: list[str]) -> None:
    """Import every plug-in named on the command line, then those that installed packages offer."""
    for plugin in plugins:
        try:
            if plugin.endswith(".py"):
                import_file(Path(plugin))
            else:
                importlib.import_module(plugin)
        except UserError as error:
            raise UserError(f"--plugin {plugin}: {error}") from error
        except Exception as error:
            raise UserError(
                f"--plugin {plugin}: does not import: {type(error).__name__}: {error}"
            ) from error
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def plugin_identity(plugins: list[str]) -> list[str]:
    """What the plug-ins contain: a checksum for a file, name and version for a module."""
    return [_identity(plugin) for plugin in plugins]


def _identity(plugin: str) -> str:
    if plugin.endswith(".py"):
        return file_sha256(Path(plugin).expanduser())
    origin = getattr(importlib.import_module(plugin), "__file__", None)
    return f"{plugin} {file_sha256(Path(origin))}" if origin else plugin
