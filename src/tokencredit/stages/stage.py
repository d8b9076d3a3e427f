"""What every stage has: a name, a version, inputs that decide its result, and a way to run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from tokencredit.canonical import canonical, digest
from tokencredit.stages.context import Context
from tokencredit.stages.together import build_together
from tokencredit.store.artifacts import MANIFEST, Plan, check_kinds
from tokencredit.store.files import read_json
from tokencredit.training_settings import Training
from tokencredit.user_code.plugins import used_code

SEEDS: Final = ("seed", "stage_seed")


class Stage(ABC):
    """A unit of work whose result depends on its declared inputs and on nothing else."""

    is_run: ClassVar[bool] = False
    """Whether its result is a run: a folder of its own outside of the store, with steps."""
    makes_policy: ClassVar[bool] = False
    """Whether its result is a language model that answers prompts, as a run's policy does."""
    name: ClassVar[str]
    version: ClassVar[int]
    """Raised by hand whenever the code changes what the stage produces."""

    def __init__(self, context: Context) -> None:
        """A stage of one run; `context` holds the configuration and what was read for it."""
        self.context = context

    @cached_property
    def folder(self) -> Path:
        """Where its result lies, or will lie."""
        return self.context.store.folder(self)

    def is_done(self) -> bool:
        """Whether its result is complete and undamaged; an exit code says less."""
        return self.context.store.find(self) is not None

    def is_there(self) -> bool:
        """Whether it has left a result; whether that is undamaged is found out when it is read."""
        return (self.context.store.folder(self) / MANIFEST).is_file()

    def found(self) -> str:
        """What is said of a result that is there and need not be made."""
        return "reused"

    def plan(self) -> Plan:
        """Hit or miss, and for a miss what differs from the nearest result."""
        return self.context.store.plan(self)

    def check_place(self) -> None:
        """Raise `UserError` unless its result can be written where it is to lie."""
        check_kinds(self, self.context.store.root)

    def build(self) -> None:
        """Make the result where it is to lie, unless it is there; or this process's part of it."""
        store, hardware = self.context.store, self.context.config.hardware
        if hardware.processes_of(self.name) == 1:
            store.build(self)
        else:
            build_together(self, store, hardware)

    @property
    def training(self) -> Training | None:
        """The settings by which a borrowed trainer trains in it; None if none does."""
        return None

    def parents(self) -> Mapping[str, Stage]:
        """The stages whose artifacts this one reads, by role."""
        return {}

    def made(self, role: str) -> Path:
        """The folder of what the stage before this one has made that has the role in `parents`."""
        return self.context.store.get(self.parents()[role]).path

    @abstractmethod
    def inputs(self) -> Mapping[str, object]:
        """Everything of the configuration and the data that can change the result."""

    @abstractmethod
    def run(self, out: Path) -> Mapping[str, object]:
        """Do the work, write the result into the folder `out`, return figures for the manifest."""

    def revision(self) -> int:
        """The version that counts for this configuration; a fault may concern some alone."""
        return self.version

    def figures(self) -> dict[str, Any]:
        """The figures that it left; none if its result is not there."""
        manifest = self.context.store.folder(self) / MANIFEST
        return dict(read_json(manifest, figures=dict)["figures"]) if manifest.is_file() else {}

    def figures_before(self) -> dict[str, dict[str, Any]]:
        """The figures of all stages before this one, by role, parents first."""
        found: dict[str, dict[str, Any]] = {}
        for role, parent in sorted(self.parents().items(), key=lambda item: item[0] != "sft"):
            found |= {**parent.figures_before(), role: parent.figures()}
        return found

    @cached_property
    def identity(self) -> dict[str, object]:
        """What the key is a hash of, in canonical form."""
        return {
            "stage": self.name,
            "version": self.revision(),
            "inputs": canonical({**self._code(), **self.inputs()}),
            "parents": {role: parent.key for role, parent in sorted(self.parents().items())},
        }

    def _code(self) -> dict[str, object]:
        """What a data set, a model, or a stage of the user's own class is made of."""
        config = getattr(self.context, "config", None)
        if config is None:  # it stands alone
            return {}
        data = [config.dataset, config.dataset.reader()]
        code = used_code([*data, config.model, self], config.plugins)
        return {"plugins": code} if code else {}

    @cached_property
    def key(self) -> str:
        """The name of this stage's result in the store."""
        return digest(self.identity)

    @cached_property
    def recipe(self) -> str:
        """A hash of what results of other seeds have in common, that of all stages before too."""
        inputs = cast(dict[str, object], self.identity["inputs"])
        kept = {name: value for name, value in inputs.items() if name not in SEEDS}
        return digest({**self.identity, "inputs": kept, "parents": self.recipes})

    @cached_property
    def recipes(self) -> dict[str, str]:
        """The recipe of each stage before this one, by role."""
        return {role: parent.recipe for role, parent in sorted(self.parents().items())}
