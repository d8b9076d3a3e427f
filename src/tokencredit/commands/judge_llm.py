"""`tokencredit judge llm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokencredit.commands.options import Apart, named
from tokencredit.console import show
from tokencredit.endpoint.settings import EndpointSettings
from tokencredit.errors import UserError
from tokencredit.evaluation.llm import run
from tokencredit.evaluation.llm.prompt import load_template
from tokencredit.evaluation.llm.questions import Asking

AnswerFiles = Annotated[
    list[Path],
    typer.Option(
        help="Answers of the models, repeatable: answers.jsonl of `judge compare`, "
        "evaluation.jsonl of a run, model_outputs.json, or JSONL with instruction and output."
    ),
]
More = Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Further such files.")]
BaseURL = Annotated[
    str, typer.Option(help="An OpenAI-compatible endpoint, up to and including /v1.")
]
ModelName = Annotated[str, typer.Option(help="The model that judges, as the endpoint calls it.")]
TemplateName = Annotated[
    str,
    typer.Option(
        help="dialogue, instruction, sentiment, or a text file of your own with $prompt, "
        "$answer_a, $answer_b."
    ),
]
Both = Annotated[
    bool, typer.Option("--both-orders", help="Ask twice, each answer first once, and average.")
]
Seed = Annotated[int, typer.Option(help="Of each pair's order.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first prompts.")]
Temperature = Annotated[float, typer.Option(help="Of the judge.")]
MaxTokens = Annotated[int, typer.Option(help="Longest reply.")]
KeyVariable = Annotated[
    str, typer.Option(help="Environment variable with the key; it is never written anywhere.")
]
Concurrency = Annotated[int, typer.Option(help="Requests at one time.")]
PerMinute = Annotated[float | None, typer.Option(help="Most requests a minute. Default: no limit.")]
Timeout = Annotated[float, typer.Option(help="Seconds for one request.")]
Retries = Annotated[
    int, typer.Option(help="Further attempts after 408, 409, 425, 429, 5xx, or no connection.")
]
ParseRetries = Annotated[
    int, typer.Option(help="How often a question is put again whose reply has no verdict.")
]
AskAgain = Annotated[
    bool,
    typer.Option("--ask-again", help="Put questions again that had no verdict last time."),
]
PriceIn = Annotated[
    float | None, typer.Option(min=0, help="Price of a million tokens of requests.")
]
PriceOut = Annotated[
    float | None, typer.Option(min=0, help="Price of a million tokens of replies.")
]
Out = Annotated[Path, typer.Option(help="Folder of verdicts and results.")]


def llm(  # noqa: PLR0913, PLR0917 - one for each option
    answers: AnswerFiles,
    base_url: BaseURL,
    model: ModelName,
    more: More = None,
    names: Apart = None,
    template: TemplateName = "instruction",
    both_orders: Both = False,
    seed: Seed = 0,
    limit: Limit = None,
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 200,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    concurrency: Concurrency = 4,
    requests_per_minute: PerMinute = None,
    timeout: Timeout = 60.0,
    retries: Retries = 6,
    parse_retries: ParseRetries = 1,
    ask_again: AskAgain = False,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    out: Out = Path("judged"),
) -> None:
    """Ask an LLM which answers are better; every pair of models, prompt by prompt.

    Verdicts are kept by content in verdicts.jsonl as they come: give the same command again after
    whatever went wrong, and nothing is asked or paid twice.
    """
    asking = Asking(
        endpoint=EndpointSettings(
            base_url=base_url,
            model=model,
            key_variable=key_variable,
            temperature=temperature,
            max_tokens=max_tokens,
            timeout=timeout,
            retries=retries,
            per_minute=requests_per_minute,
        ),
        template=load_template(template),
        seed=seed,
        both_orders=both_orders,
        parse_retries=parse_retries,
        concurrency=concurrency,
        again=ask_again,
    )
    files, prices = [*answers, *(more or [])], prices_of(price_in, price_out)
    show(run.run(files, named(names), limit, asking, prices, out))


def prices_of(asked: float | None, said: float | None) -> tuple[float, float] | None:
    """The prices of a million tokens of requests and of replies; both, or none."""
    if asked is not None and said is not None:
        return asked, said
    if (asked is None) != (said is None):
        raise UserError("--price-in and --price-out: give both, or none")
    return None
