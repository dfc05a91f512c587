"""A language model as judge, over any OpenAI-compatible endpoint."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from alignlab.checks import at_least, installed, positive, within
from alignlab.errors import DataError, Problem
from alignlab.integrity import json_digest
from alignlab.judges.base import Answer, Comparison, Judge, Judged, Judgement, JudgingCost, Rating, Verdict
from alignlab.judges.cache import Store
from alignlab.judges.endpoint import Endpoint, Limits, Reply
from alignlab.judges.templates import Template, choose, read_templates, values_of

# Templates that come with the package, by the name that `template` takes.
BUILT_IN = {
    "reasons": Path(__file__).with_name("templates.jsonl"),
    "token": Path(__file__).with_name("templates_token.jsonl"),
}


@dataclass(kw_only=True)
class LLM(Judge):
    """A chat model that is shown both answers, by default in both orders.

    model:         as the endpoint calls it.
    base_url:      address of the endpoint, up to /v1; empty is OpenAI's.
    api_key_env:   environment variable that holds the key; a server on this machine needs none.
    template:      reasons (the judge explains itself and ends in a mark; rates and compares, with and without
                   reference, one turn and two), token (compares by the log-probabilities of one letter), or a file of
                   your own: FastChat's judge_prompts.jsonl, AlpacaEval's alpaca_eval_clf.txt, or one in their form.
    both_orders:   show every pair both ways; otherwise one way, drawn by the row's id.
    neutralise:    put delimiters and verdict marks inside answers into full-width characters. Without it prompts are
                   byte for byte the published ones for answers that contain such things, and those can fake a verdict.
    temperature:   0 takes the likeliest words.
    max_tokens:    longest answer of the judge.
    seed:          sent along; servers may ignore it.
    options:       further fields of the request; null takes a field out (for models that refuse one).
    concurrency:   requests under way at once.
    timeout:       seconds without a byte before a request counts as failed.
    retries:       how often a failed request is sent again.
    backoff:       seconds before the first repetition, doubling after that.
    give_up_after: requests in a row that fail for good before no more are sent.
    max_calls:     most requests of one evaluation, failed ones included; 0 is no limit.
    max_cost:      no request is sent once this much is spent (those under way still come in); 0 is no limit.
    price_in, price_out: per million tokens of prompt and answer, in whatever currency max_cost is.
    """

    model: str
    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    template: str = "reasons"
    both_orders: bool = True
    neutralise: bool = True
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 4
    backoff: float = 1.0
    give_up_after: int = 8
    max_calls: int = 0
    max_cost: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0

    cosmetic: ClassVar[tuple[str, ...]] = (
        "api_key_env",
        "template",  # its content counts
        "concurrency",
        "timeout",
        "retries",
        "backoff",
        "give_up_after",
        "max_calls",
        "max_cost",
        "price_in",
        "price_out",
    )

    def fingerprint(self) -> str:
        return json_digest([super().fingerprint(), [asdict(template) for template in self.templates()]], 16)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.model:
            yield Problem("model", "''", "needs the name of a model", "model=gpt-4o-mini")
        if self.base_url and (
            urlsplit(self.base_url).scheme not in ("http", "https") or not urlsplit(self.base_url).netloc
        ):
            yield Problem("base_url", self.base_url, "must be an http address", "base_url=http://127.0.0.1:8080/v1")
        yield from within("temperature", self.temperature, 0.0, 2.0, example=0.0)
        for key, low, example in (
            ("max_tokens", 1, 1024),
            ("concurrency", 1, 8),
            ("retries", 0, 4),
            ("give_up_after", 1, 8),
            ("max_calls", 0, 1000),
            ("max_cost", 0, 5.0),
            ("price_in", 0, 0.15),
            ("price_out", 0, 0.6),
        ):
            yield from at_least(key, getattr(self, key), low, example=example)
        yield from positive("timeout", self.timeout, example=120, hint="seconds")
        yield from at_least("backoff", self.backoff, 0, example=1.0, hint="seconds")
        if self.max_cost > 0 and self.price_in == self.price_out == 0:
            text = "needs prices per million tokens, or nothing ever costs anything"
            yield Problem("max_cost", self.max_cost, text, "price_in=0.15")

    def missing(self) -> Iterator[Problem]:
        yield from installed("model", self.model, "openai", extra="judge")
        if not self._key():
            yield Problem("api_key_env", self.api_key_env, "is not set", f"export {self.api_key_env}=<your key>")
        try:
            self.templates()
        except DataError as error:
            yield Problem("template", self.template, f"{error} (built in: {', '.join(BUILT_IN)})", "template=reasons")

    def templates(self) -> tuple[Template, ...]:
        """Raises DataError where the file is none of templates."""
        return read_templates(str(BUILT_IN.get(self.template, self.template)))

    def compare(self, rows: Sequence[Comparison], store: Path) -> Judged:
        asked, shown = [], []
        for row in rows:
            template = choose(self.templates(), "pairwise", turns=len(row.prompt), reference=bool(row.reference))
            orders = (False, True) if self.both_orders else (int(json_digest(row.id, 40), 16) % 2 == 1,)
            for swapped in orders:
                first, second = (row.b, row.a) if swapped else (row.a, row.b)
                values = values_of(row.prompt, first, second, row.reference)
                asked.append((template, self._request(template, values)))
                shown.append((row.id, swapped))
        heard, bill = self._ask(asked, store)
        judgements = []
        for (id_, swapped), (score, judged, said) in zip(shown, heard, strict=True):
            score = 1 - score if swapped else score
            verdict = Verdict.of(score) if judged else Verdict.UNJUDGED
            judgements.append(Judgement(id_, swapped, verdict, score, said))
        graded = any(template.output_format == "token" for template, _ in asked)
        return Judged(judgements, bill, "mean" if graded else "tie")

    def rate(self, rows: Sequence[Answer], store: Path) -> tuple[list[Rating], JudgingCost]:
        asked = []
        for row in rows:
            template = choose(self.templates(), "single", turns=len(row.prompt), reference=bool(row.reference))
            values = values_of(row.prompt, row.answer, None, row.reference)
            asked.append((template, self._request(template, values)))
        heard, bill = self._ask(asked, store)
        return [Rating(row.id, *what) for row, what in zip(rows, heard, strict=True)], bill

    def _request(self, template: Template, values: Mapping[str, str]) -> dict[str, Any]:
        """What is sent, and what a reply is kept under: the address belongs to it, the key does not."""
        one_token = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20} if template.output_format == "token" else {}
        body = {
            "model": self.model,
            "messages": template.messages(values, neutralise=self.neutralise),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            **one_token,
            **self.options,
        }
        return {"base_url": self.base_url, "body": {key: value for key, value in body.items() if value is not None}}

    def _ask(
        self, asked: Sequence[tuple[Template, dict[str, Any]]], folder: Path
    ) -> tuple[list[tuple[float, bool, str]], JudgingCost]:
        """(score of the first answer or rating, whether there was a reply, its text or why not) for each request.

        Requests that are the same are sent once, those with a kept reply not at all.
        """
        kept = Store(folder / "llm")
        keys = [json_digest(request, 40) for _, request in asked]
        requests = {key: request for key, (_, request) in zip(keys, asked, strict=True)}
        replies = {key: reply for key, request in requests.items() if (reply := kept.get(request)) is not None}
        cached = len(replies)
        open_keys = [key for key in requests if key not in replies]
        failures: dict[str, str] = {}
        bill = JudgingCost()
        if open_keys:
            endpoint = Endpoint(self.base_url, self._key(), self._limits())

            def keep(i: int, reply: Reply) -> None:
                kept.put(requests[open_keys[i]], reply)
                replies[open_keys[i]] = reply

            found = endpoint.ask_all([requests[key]["body"] for key in open_keys], keep)
            failures, bill = {open_keys[i]: reason for i, reason in found.items()}, endpoint.bill
        bill.cached = cached
        bill.failures = Counter(failures[key] for key in keys if key in failures)
        heard = [
            (*_read(template, replies[key]), True) if key in replies else (math.nan, failures[key], False)
            for key, (template, _) in zip(keys, asked, strict=True)
        ]
        return [(score, judged, said) for score, said, judged in heard], bill

    def _limits(self) -> Limits:
        return Limits(
            concurrency=self.concurrency,
            timeout=self.timeout,
            retries=self.retries,
            backoff=self.backoff,
            max_calls=self.max_calls,
            max_cost=self.max_cost,
            price_in=self.price_in,
            price_out=self.price_out,
            give_up_after=self.give_up_after,
        )

    def _key(self) -> str:
        """The key; for a server on this machine that has none, a word in its place, since the client insists on one."""
        local = urlsplit(self.base_url).hostname in ("localhost", "127.0.0.1", "::1")
        return os.environ.get(self.api_key_env, "") or ("none" if local else "")


def _read(template: Template, reply: Reply) -> tuple[float, str]:
    """(score, what is told of it) of a reply; the score is NaN where it holds no verdict."""
    if template.output_format != "token":
        return template.parse(reply["text"]), reply["text"]
    if not reply["first_token"]:
        return math.nan, "the answer came without log-probabilities: this endpoint can't be used with such a template"
    return template.parse_tokens(reply["first_token"]), reply["text"]
