"""The models of a call: which are needed, which are given, and in which folders they lie."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from tokencredit.config import Config
from tokencredit.errors import UserError, require
from tokencredit.judges.ensemble import member_name
from tokencredit.models.adapters.adapter import CONFIG
from tokencredit.models.loading.fit import quiet
from tokencredit.models.loading.model import check_folder, load_tokenizer
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.weights import context_of, read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARGUMENTS: Final = {"sft": "reference"}
"""What a call names a model, where that is not its role in a run."""
KINDS: Final = "a model, a folder, or a name on the hub"


@runtime_checkable
class Saved(Protocol):
    """A model in memory: whatever transformers or peft made."""

    def save_pretrained(self, save_directory: str | Path) -> object:
        """Write it into a folder."""


Source = Saved | str | Path
Folders = dict[str, Path]


@dataclass(frozen=True, slots=True)
class Models:
    """What was given, by the role that judges know it under."""

    given: Mapping[str, object]

    @classmethod
    def of(
        cls,
        named: Mapping[str, Source | None],
        reward_model: Source | Sequence[Source] | None,
        artifacts: Mapping[str, str | Path],
    ) -> Models:
        """`named` by role; several reward models are an ensemble's members in order."""
        members = reward_model if isinstance(reward_model, list | tuple) else [reward_model]
        roles = {member_name(number): member for number, member in enumerate(members)}
        known = {**named, **roles, **artifacts}
        return cls({role: source for role, source in known.items() if source is not None})

    def check(self, config: Config) -> None:
        """Raise for a model that judge or scorer lack, or that neither reads."""
        parts = {"judge": config.judge, "scorer": config.scorer}
        readers: dict[str, str] = {}
        for what, part in parts.items():
            roles = [*part.artifacts(), *part.passes()]
            for role in [*roles, "sft"] if part.reads_reference() else roles:
                readers.setdefault(role, what)
        named = {what: f"{what} = {type(part).__name__}" for what, part in parts.items()}
        for role, what in readers.items():
            if role not in self.given:
                own = what == "scorer" and config.judge.gives_scores
                raise UserError(
                    f"{argument(role)}: is missing; {named[what]} reads it"
                    f"{' for the scores that are paid' * (what == 'scorer')}; give {KINDS}"
                    f"{', or scorer=judge to pay the scores of the judge itself' * own}"
                )
        own_code = any(not type(p).__module__.startswith("tokencredit.") for p in parts.values())
        for role in self.given.keys() - readers.keys():
            if role != "policy" or not own_code:  # which may read it without saying so
                known = ", ".join(map(argument, readers)) or "no model"
                raise UserError(
                    f"{argument(role)}: is given, but neither {named['judge']} nor "
                    f"{named['scorer']} reads it; leave it out (they read {known})"
                )

    @contextmanager
    def opened(
        self, tokenizer: PreTrainedTokenizerBase | str | Path | None
    ) -> Iterator[tuple[Folders, PreTrainedTokenizerBase]]:
        """The folder of each model, and the tokenizer; a model in memory is copied into one.

        So none is changed by being read. The copies go with the context.
        """
        there = {
            role: found(argument(role), source)
            for role, source in self.given.items()
            if isinstance(source, str | Path)
        }
        writer = _tokenizer(tokenizer, there)
        with tempfile.TemporaryDirectory(prefix="tokencredit-") as scratch:
            folders = dict(there)
            for role, source in self.given.items():
                if role not in there:
                    if not isinstance(source, Saved):
                        raise UserError(
                            f"{argument(role)}: is a {type(source).__name__}; give {KINDS}"
                        )
                    folders[role] = Path(scratch) / role
                    with quiet():
                        source.save_pretrained(folders[role])
                        writer.save_pretrained(folders[role])
            yield folders, writer


def argument(role: str) -> str:
    """What a call names the model of that role."""
    base, _, member = role.rpartition("_")
    if base == member_name(0) and member.isdecimal():
        return f"{base}[{member}]"
    return ARGUMENTS.get(role, role)


def found(name: str, source: str | Path) -> Path:
    """The folder that is meant: of a run, its policy; a name on the hub stays as it is."""
    path = Path(source).expanduser()
    if (path / "policy").is_dir():
        return path / "policy"
    looks_local = isinstance(source, Path) or str(source)[:1] in {"/", ".", "~"}
    if looks_local or path.exists() or str(source).count("/") > 1:
        check_folder(path, name)
    return path


def check_lengths(folders: Folders, longest: int) -> None:
    """Raise for a model that cannot read that many tokens; an adapter is told when it is loaded."""
    for role, folder in folders.items():
        if (folder / CONFIG).is_file():
            continue
        limit = context_of(read_config(Place(folder, key=argument(role))))
        require(
            limit is None or longest <= limit,
            argument(role),
            str(folder),
            f"reads at most {limit} tokens, and the longest prompt has {longest} with its "
            "response; shorten it",
        )


def _tokenizer(
    given: PreTrainedTokenizerBase | str | Path | None, there: Folders
) -> PreTrainedTokenizerBase:
    """The tokenizer that responses are written in; it must have an end token."""
    if given is None:
        first = next(
            (there[role] for role in (*("policy", "sft", "dpo"), *there) if role in there), None
        )
        if first is None:
            raise UserError(
                "tokenizer: is missing, and no folder of a model brings one; give a tokenizer, a "
                "folder, or a name on the hub"
            )
        return load_tokenizer(first)
    if isinstance(given, str | Path):
        return load_tokenizer(Path(given).expanduser())
    if given.eos_token_id is None:
        raise UserError("tokenizer: has no end token (eos_token); a response must be able to end")
    return given
