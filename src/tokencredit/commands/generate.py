"""Continuing prompts with a trained policy, for people who want to see it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from tokencredit import config as configuration
from tokencredit.commands.options import Plugins
from tokencredit.config import load_plugins
from tokencredit.console import say, show, visible
from tokencredit.data.token_ids import SpecialTokens, TokenIds
from tokencredit.errors import UserError, require
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.decoding.text_generator import TextGenerator
from tokencredit.models.loading.weights import check_language_model, context_of
from tokencredit.rollout import Prompts
from tokencredit.store.run_folder import CONFIG, METRICS, RunFolder


def continuations(
    run: Path, prompts: Sequence[str], samples: int, max_new: int, temperature: float, seed: int
) -> Iterator[tuple[str, list[str]]]:
    """Each prompt with `samples` continuations of at most `max_new` tokens."""
    folder = run / "policy" if (run / "policy").is_dir() else run
    if not folder.is_dir() or (folder == run and (run / METRICS).is_file()):
        raise UserError(f"{run}: holds no finished policy; let the run end first")
    check_language_model(folder, "RUN")
    RunFolder(run).check_exports("policy/")
    generator = TextGenerator.load(folder, key="RUN")
    writer = TokenIds(generator.tokenizer, _read_as(run))
    context = context_of(generator.model.config)
    sampling = Sampling(min_new_tokens=max_new, max_new_tokens=max_new + 1, temperature=temperature)
    for index, text in enumerate(prompts):
        ids = writer.opened(text)
        if writer.spells(text):
            say(
                "--prompt: names of special tokens in it are read as text (as tokens by the policy "
                "of a run with dataset.special_tokens=parse)"
            )
        require(bool(ids), "--prompt", text, "must hold at least one token")
        require(
            context is None or len(ids) + max_new <= context,
            "--prompt",
            f"{text[:40]}…" if len(text) > 40 else text,
            f"has {len(ids)} tokens; with {max_new} new ones that exceeds the context of {context}",
        )
        none = torch.zeros(samples, dtype=torch.long)
        batch = Prompts(
            rows=none,
            samples=torch.arange(samples),
            groups=none,
            ids=torch.tensor([ids] * samples),
            mask=torch.ones((samples, len(ids)), dtype=torch.bool),
            min_new=none + 1,
            max_new=none + max_new,
        )
        yield text, generator.texts(generator.generate(batch, sampling, (seed, "try", index)))


def _read_as(run: Path) -> SpecialTokens:
    """What names of special tokens were to the policy of a run; text for a folder of a model."""
    path = run / CONFIG
    return configuration.read(path).dataset.special_tokens if path.is_file() else SpecialTokens.text


def try_policy(  # noqa: PLR0913, PLR0917 - one for each option
    run: Annotated[Path, typer.Argument(help="A run folder, or any Hugging Face model folder.")],
    prompt: Annotated[list[str], typer.Option(help="Text to continue; repeatable.")],
    samples: Annotated[int, typer.Option(min=1, help="Continuations of each prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation.")] = 32,
    temperature: Annotated[float, typer.Option(min=0.01, help="Logits are divided by this.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    plugin: Plugins = None,
) -> None:
    """Try a trained policy: continue prompts with it."""
    load_plugins(plugin or [])
    for text, replies in continuations(run, prompt, samples, max_new_tokens, temperature, seed):
        for reply in replies:
            asked = visible(text)
            show((typer.style(asked, bold=True) if sys.stdout.isatty() else asked) + visible(reply))
