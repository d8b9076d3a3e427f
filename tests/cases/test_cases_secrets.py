"""A canary key goes through all that takes one, and comes back from nowhere in any encoding."""

from __future__ import annotations

import base64
import html
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from typer.testing import CliRunner

from judge_server import Answer, Behaviour, JudgeServer, judge
from tokencredit.cli import app
from tokencredit.redaction import HIDDEN, redacted, secrets_of, secrets_of_url
from tokencredit.tracking import outgoing

Serve = Callable[[Behaviour], JudgeServer]
Files = Callable[..., list[str]]

KEY = 'sk-Canary+/4711_"b<z?>&\\x-' + "0123456789" * 6
PASSWORD = "p@ss:w+rd/Zürich"
USER = "al ice"


def encodings(secret: str) -> Iterator[str]:
    """A text in the spellings that servers and libraries give it."""
    data = secret.encode()
    yield from (secret, repr(secret), json.dumps(secret), json.dumps(json.dumps(secret)))
    yield from (json.dumps(secret, ensure_ascii=False).replace("/", r"\/"), html.escape(secret))
    yield from (quote(secret), quote(secret, safe=""), quote_plus(secret), quote(quote(secret)))
    yield "".join(f"%{byte:02X}" for byte in data)
    yield "".join(f"\\u{ord(character):04X}" for character in secret)
    yield "".join(f"&#{ord(character)};" for character in secret)
    yield from (data.hex(), data.hex().upper(), data.hex(":"), base64.b32encode(data).decode())
    for before in ("", "B", "Bearer ", "api:"):
        for behind in ("", "!", "!!"):
            whole = f"{before}{secret}{behind}".encode()
            for packed in (base64.b64encode(whole), base64.urlsafe_b64encode(whole)):
                text = packed.decode()
                yield from (text, text.rstrip("="), quote(text, safe=""), json.dumps(text))
            yield base64.encodebytes(whole).decode()
            yield json.dumps(base64.encodebytes(whole).decode())


def clean(secret: str, *texts: str, folder: Path | None = None) -> None:
    """Neither these texts nor any file below the folder hold 12 characters of a spelling of it."""
    contents = [text.encode() for text in texts]
    if folder is not None:
        contents += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    there = {content[k : k + 12] for content in contents for k in range(len(content) - 11)}
    pieces = {piece.encode() for text in encodings(secret) for piece in textwrap.wrap(text, 12)}
    found = {piece for piece in pieces if len(piece) == 12 and piece in there}
    assert not found


@pytest.mark.parametrize("secret", [KEY, f"{USER}:{PASSWORD}", "sk-0123456789abcdef"])
def test_case_14_a_secret_is_cut_out_in_every_spelling(secret: str) -> None:
    secrets = secrets_of([secret])
    for text in encodings(secret):
        said = secrets.redact(f"before {text} after")
        assert HIDDEN in said and len(said) < 40, (text, said)
        assert said.startswith("before ") and said.endswith(" after")


def test_case_14_texts_that_hold_no_secret_stay_as_they_are() -> None:
    text = f"Verdict: A\n{base64.b64encode(b'another text that is long').decode()} c2stMDEyMzQ1Njc%"
    assert secrets_of([KEY, "sk-0123456789abcdef", "x", "to"]).redact(text) == text
    assert secrets_of([]).redact(text) == text
    assert secrets_of(["x"]).redact("x, exact, eA==") == f"{HIDDEN}, exact, {HIDDEN}=="


def test_case_14_what_an_address_holds_is_secret() -> None:
    url = f"https://{quote(USER)}:{quote(PASSWORD, safe='')}@host/v1?api_key=k%2F1&version=2"
    found = secrets_of_url(url)
    assert {f"{USER}:{PASSWORD}", PASSWORD, "k/1"} <= set(found) and "2" not in found
    assert secrets_of_url("http://host:1/v1") == [] == secrets_of_url("http://[")


def test_case_14_the_environments_secrets_are_named_in_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{quote(PASSWORD, safe='')}@proxy:1")
    basic = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    for text in (KEY, basic, base64.b64encode(f"api:{KEY}".encode()).decode()):
        said = redacted(f"refused ({text})")
        clean(KEY, said)
        clean(PASSWORD, said)
        assert said.startswith("refused ($")
        assert outgoing.one_line(RuntimeError(text)).startswith("RuntimeError: $")


@pytest.mark.parametrize("kind", ["reply", "status", "odd", "model", "connection"])
def test_case_14_a_canary_key_stands_nowhere_after_judging(
    serve: Serve,
    answer_files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """The endpoint throws back the key and the header of `user:password`, encoded in turn."""
    spelled = [*encodings(KEY), *encodings(f"{USER}:{PASSWORD}"), *encodings(PASSWORD)]
    echo = f"you sent {' and '.join(spelled)}"

    def throws(number: int, text: str) -> Answer:
        if kind == "reply":
            return Answer(f"{echo}\nVerdict: A")
        if kind == "status" or number < 1:
            status = (400, 401, 503)[number % 3]
            return Answer(status=status, body=json.dumps({"error": {"message": echo}}))
        if kind == "odd":
            return Answer(body=json.dumps({"error": {"message": echo}}))
        choice = {"message": {"content": "Verdict: A"}, "finish_reason": "stop"}
        return Answer(body=json.dumps({"model": echo, "choices": [choice]}))

    monkeypatch.setattr("tokencredit.endpoint.client.Endpoint._rest", lambda *_: None)
    server = serve(throws)
    monkeypatch.setenv("MY_KEY", KEY)
    url = server.url.replace("//", f"//{quote(USER)}:{quote(PASSWORD, safe='')}@")
    if kind == "connection":
        url = url.replace("127.0.0.1", "no-such-host.invalid")
    for number in range(2):
        out = tmp_path / str(number)
        answer = judge(answer_files(3), url, out, "--key-variable", "MY_KEY")
        told = [answer.output, str(answer.exception)]
        clean(KEY, *told, folder=tmp_path)
        clean(f"{USER}:{PASSWORD}", *told, folder=tmp_path)
        clean(PASSWORD, *told, folder=tmp_path)
    assert server.requests or kind == "connection"
    made = list(tmp_path.rglob("answers.jsonl")) + [Path(name) for name in answer_files(3)]
    assert CliRunner().invoke(app, ["judge", "export", str(made[0]), "--format", "mt_bench",
                                    "--out", str(tmp_path / "export")]).exit_code == 0  # fmt: skip
    clean(KEY, folder=tmp_path)
