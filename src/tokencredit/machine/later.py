"""Libraries that a command of ours reads when it first needs them, and not when it starts.

Most of our files import torch, which takes longer than all else that `--help` and a misspelt key
need. Of a library that is put off, `import torch` binds a module that is empty until something is
looked up in it. `torch.Tensor` in an annotation, which is text, looks up nothing; a base class, a
decorator, or `from torch import Tensor` do, and the library is read there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_loader
from threading import RLock
from types import ModuleType


def put_off(name: str) -> None:
    """Let `import NAME` read the library only when something of it is first used."""
    spec = None if name in sys.modules else find_spec(name)
    if spec is not None:
        sys.meta_path.insert(0, _Later(spec))


def read_now(name: str) -> None:
    """Read the library if it is put off; before threads are started, of which one could find it
    half read."""
    for finder in list(sys.meta_path):
        if isinstance(finder, _Later) and finder.spec.name == name:
            finder.read()


class _Later:
    """A library that is put off. As a finder it stands before all others until it is read.

    `importlib.util.LazyLoader` reads at the second `import` of a name, since that asks the module
    for its `__spec__`.
    """

    def __init__(self, spec: ModuleSpec) -> None:
        self.spec, self.lock = spec, RLock()
        self.module = sys.modules[spec.name] = module_from_spec(spec)
        self.module.__getattr__ = self._look  # type: ignore[method-assign]

    def _look(self, name: str) -> object:
        """Called for what the module does not have (PEP 562)."""
        self.read()
        return getattr(self.module, name)

    def read(self) -> None:
        """Read the library into the module that everybody holds."""
        with self.lock:
            if self not in sys.meta_path:
                return
            sys.meta_path.remove(self)
            del self.module.__getattr__
            try:
                assert self.spec.loader is not None
                self.spec.loader.exec_module(self.module)
            except BaseException:
                del sys.modules[self.spec.name]
                raise

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A part is imported: the whole is read first, which may bring the part with it."""
        if not name.startswith(f"{self.spec.name}."):
            return None
        self.read()
        return spec_from_loader(name, _There(name)) if name in sys.modules else None


class _There(Loader):
    """Loads a module that has been imported while it was looked for: as it is, not once more.

    Python takes the spec of such a module, if it has one, before that which a finder gives.
    """

    def __init__(self, name: str) -> None:
        self.module = sys.modules[name]
        self.spec, self.module.__spec__ = self.module.__spec__, None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
