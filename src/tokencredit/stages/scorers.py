"""How often reward model and oracle are right about held-out texts as long as responses are.

Scorers are trained and measured on whole texts; what they pay for, or rate, is often shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Float

from tokencredit.data.pairs import as_rollout
from tokencredit.data.prompts import PromptStream
from tokencredit.data.records import Record
from tokencredit.data.splits import Objective
from tokencredit.data.token_ids import TokenIds
from tokencredit.judges.panel import Panel, SameAsJudge
from tokencredit.models.tokens.texts import decode
from tokencredit.rollout import Prompts, Rollout
from tokencredit.statistics.win_rates import shares, win_rate
from tokencredit.store.finite import check_scores

if TYPE_CHECKING:
    from tokencredit.models.actors import Actors
    from tokencredit.rl.collector import Collector
    from tokencredit.rl.evaluate import Rater
    from tokencredit.stages.context import Context

REWARD_MODEL: Final = "reward_model"
ORACLE: Final = "oracle"
Accuracy = dict[str, float]


@dataclass(frozen=True, slots=True)
class Answers:
    """Held-out texts behind the prompts of the evaluation, cut where a response would be.

    Of pairs the better and the worse answer; else one text, and its label.
    """

    prompts: Prompts
    said: tuple[Rollout, ...]
    signs: Float[torch.Tensor, "B"] | None
    """+1 for positive texts, −1 for negative ones; None for pairs."""

    def shares(self, numbers: Sequence[torch.Tensor]) -> list[float]:
        """For each text or pair 1 if its scores are right, ½ for a tie, 0 if they are wrong."""
        if self.signs is None:
            better, worse = numbers
        else:
            better, worse = numbers[0] * self.signs, torch.zeros(len(self.signs))
        found: list[float] = shares(better.tolist(), worse.tolist()).tolist()
        return found


def accuracies(
    context: Context,
    actors: Actors,
    collector: Collector,
    oracle: Rater | None,
    prompts: PromptStream,
) -> dict[str, Accuracy]:
    """Accuracy of the paying reward models and of the oracle, each with its uncertainty.

    Of labelled texts it is the share whose score has the sign of the label, of pairs the share
    whose better answer scores higher; `tokens` is their mean length. A scorer that reads no reward
    model has none, and without labels or pairs there is nothing to measure.
    """
    answers = held_out_answers(context, prompts)
    if answers is None:
        return {}
    found: dict[str, Accuracy] = {}
    if _pays_by_reward_model(context):
        judge = collector.judge
        alone = replace(collector, judge=judge.scorer if isinstance(judge, Panel) else judge)
        scores = [_scores(alone, answers.prompts, rollout) for rollout in answers.said]
        found[REWARD_MODEL] = _accuracy(REWARD_MODEL, answers, scores)
    if oracle is not None:
        texts = (decode(actors.tokenizer, r.response_ids, r.response_mask) for r in answers.said)
        found[ORACLE] = _accuracy(ORACLE, answers, [oracle.rate(each) for each in texts])
    return found


def held_out_answers(context: Context, prompts: PromptStream) -> Answers | None:
    """The texts that stand where the evaluation's responses do; None where none can be judged."""
    settings, corpus = context.config.evaluation, context.corpus
    pairs = corpus.objective(context.config.reward_model.objective) is Objective.pairs
    count = min(settings.prompts, len(prompts.records))
    batch = prompts.batch(settings.stream, 0, count, "evaluation")
    drawn = prompts.drawn(settings.stream, "evaluation", range(count))
    rows, before, cut = [], [], []
    for number, (record, ids) in enumerate(drawn):
        longest = int(batch.max_new[number])
        texts = [text[:longest] for text in _following(record, ids, prompts, pairs)]
        if texts and all(texts):
            rows.append(number)
            before.append(ids)
            cut.append(texts)
    labels = {drawn[number][0].label for number in rows}
    if not rows or not (pairs or labels == {0, 1}):
        return None
    chosen = replace(batch[torch.tensor(rows)], groups=torch.arange(len(rows)))
    said = [_rollout(chosen, before, texts, prompts.token_ids) for texts in zip(*cut, strict=True)]
    signs = None if pairs else torch.tensor([2.0 * (drawn[n][0].label or 0) - 1 for n in rows])
    return Answers(chosen, tuple(said), signs)


def _following(
    record: Record, ids: list[int], prompts: PromptStream, pairs: bool
) -> list[list[int]]:
    """What a record says behind a prompt: its answer, of pairs the other one as well, in ids.

    Nothing where it does not say which is better, or what is good.
    """
    if (record.rejected if pairs else record.label) is None:
        return []
    begun = prompts.token_ids.begin(record)
    texts = [record.answer, *([record.rejected or ""] if pairs else [])]
    said = [prompts.token_ids.answer(begun, text).ids for text in texts]
    # A text goes on behind the tokens that were taken from it as the prompt.
    return [said[0][len(ids) :]] if record.is_text else said


def _rollout(
    prompts: Prompts, before: list[list[int]], texts: Sequence[list[int]], ids: TokenIds
) -> Rollout:
    """As a rollout of a model that had said just this."""
    said = as_rollout(before, texts, int(ids.tokenizer.pad_token_id))
    ends = {ids.end, ids.turn_end}
    finished = torch.tensor([text[-1] in ends for text in texts])
    return replace(said, rows=prompts.rows, min_new=prompts.min_new, finished=finished)


def _scores(collector: Collector, prompts: Prompts, said: Rollout) -> torch.Tensor:
    """The scores of what was said, through the passes that responses take."""

    def speak(chunk: Prompts) -> Rollout:
        return said[chunk.groups.cpu()].trimmed().to(chunk.ids.device)

    return collector.collect(prompts, speak)[1].scores


def _accuracy(name: str, answers: Answers, numbers: Sequence[torch.Tensor]) -> Accuracy:
    check_scores(name, torch.cat(list(numbers)))
    rate: dict[str, Any] = asdict(win_rate(answers.shares(numbers)))
    tokens = torch.cat([rollout.lengths for rollout in answers.said]).double().mean()
    kept = {name: rate[name] for name in ("mean", "se", "low", "high", "n")}
    return {**kept, "tokens": float(tokens)}


def _pays_by_reward_model(context: Context) -> bool:
    """And by nothing that only the policy's own responses have; and somebody is paid."""
    config = context.config
    if not config.algorithm.rolls_out:
        return False
    scorer = config.judge if isinstance(config.scorer, SameAsJudge) else config.scorer
    return REWARD_MODEL in scorer.artifacts() and not scorer.reads_reference()
