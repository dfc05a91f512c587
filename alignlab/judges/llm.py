"""A language model as judge, behind any OpenAI-compatible endpoint."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
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
from alignlab.progress import Progress, silent

# The model of a judge without a name, at OpenAI's endpoint.
DEFAULT_MODEL = "gpt-4o-mini"

# Name (a value of `template`) -> file of a template that comes with the package.
BUILT_IN = {
    "reasons": Path(__file__).with_name("templates.jsonl"),
    "token": Path(__file__).with_name("templates_token.jsonl"),
}


@dataclass(kw_only=True)
class LLM(Judge):
    """A chat model that sees both answers to a prompt, by default in both orders.

    model:         name of the model at the endpoint. If it is empty, gpt-4o-mini at OpenAI's endpoint is asked. Another
                   endpoint needs a name.
    base_url:      address of the endpoint, up to /v1. If it is empty, OpenAI's endpoint is used. Any other endpoint
                   must be named on the command line, unless it is on this machine.
    api_key_env:   environment variable that holds the key. A server on this machine needs none. Any name but the
                   default must be set on the command line.
    template:      the prompts of the judge:
                   - reasons: the judge explains its verdict and ends with a mark. It rates or compares, with or without
                     a reference answer, for one turn or two.
                   - token: the judge compares by the log-probabilities of one letter.
                   - a file of your own: FastChat's judge_prompts.jsonl, AlpacaEval's alpaca_eval_clf.txt, or a file
                     in the format of one of them.
    both_orders:   show every pair in both orders. Otherwise the row's id decides the order.
    neutralise:    replace delimiters and verdict marks inside answers by full-width characters. Without it, prompts are
                   byte for byte the published ones, and answers that contain such marks can fake a verdict.
    temperature:   sampling temperature of the judge; 0 takes the likeliest tokens.
    max_tokens:    maximum number of tokens of the judge's reply.
    seed:          seed in the request. Servers may ignore it.
    options:       further fields of the request; null removes a field (for models that reject it).
    concurrency:   number of simultaneous requests.
    timeout:       seconds without a byte after which a request counts as failed.
    retries:       how often a failed request is sent again.
    backoff:       seconds before the first retry. The pause doubles after each one.
    give_up_after: number of requests in a row that fail for good before no more are sent.
    max_calls:     maximum number of requests of one evaluation, including failed ones; 0 is no limit.
    max_cost:      no request is sent after so much was spent. Requests under way are still received. 0 is no limit.
    price_in, price_out: price per million tokens of prompts and of replies, in the currency of max_cost.
    """

    model: str = ""
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

    _progress = staticmethod(silent)

    def with_progress(self, progress: Progress) -> LLM:
        judge = copy(self)
        vars(judge)["_progress"] = progress
        return judge

    @property
    def asked_model(self) -> str:
        """The name of the model that is asked."""
        return self.model or DEFAULT_MODEL

    def fingerprint(self) -> str:
        named = super(LLM, replace(self, model=self.asked_model)).fingerprint()
        return json_digest([named, [asdict(template) for template in self.templates()]], 16)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.base_url and not self.model:
            yield Problem("model", "''", "needs the name of a model of this endpoint", "model=<its name>")
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
            text = "needs prices per million tokens, otherwise the cost is always 0"
            yield Problem("max_cost", self.max_cost, text, "price_in=0.15")

    def missing(self) -> Iterator[Problem]:
        yield from installed("model", self.asked_model, "openai", extra="judge")
        if not self._key():
            yield Problem("api_key_env", self.api_key_env, "is not set", f"export {self.api_key_env}=<your key>")
        try:
            self.templates()
        except DataError as error:
            yield Problem("template", self.template, f"{error} (built in: {', '.join(BUILT_IN)})", "template=reasons")

    def templates(self) -> tuple[Template, ...]:
        """All templates of the file. Raises DataError if it can't be read or holds something else."""
        return read_templates(str(BUILT_IN.get(self.template, self.template)))

    @property
    def rates(self) -> bool:
        return any(template.kind == "single" for template in self.templates())

    def compare(self, rows: Sequence[Comparison], store: Path) -> Judged:
        requests, shown = [], []
        for row in rows:
            template = choose(self.templates(), "pairwise", turns=len(row.prompt), reference=bool(row.reference))
            orders = (False, True) if self.both_orders else (int(json_digest(row.id, 40), 16) % 2 == 1,)
            for swapped in orders:
                first, second = (row.b, row.a) if swapped else (row.a, row.b)
                values = values_of(row.prompt, first, second, row.reference)
                requests.append((template, self._request(template, values)))
                shown.append((row.id, swapped))
        replies, bill = self._ask(requests, store)
        judgements = []
        for (id_, swapped), (score, judged, said) in zip(shown, replies, strict=True):
            score = 1 - score if swapped else score
            verdict = Verdict.of(score) if judged else Verdict.UNJUDGED
            judgements.append(Judgement(id_, swapped, verdict, score, said))
        graded = any(template.output_format == "token" for template, _ in requests)
        return Judged(judgements, bill, "mean" if graded else "tie")

    def rate(self, rows: Sequence[Answer], store: Path) -> tuple[list[Rating], JudgingCost]:
        requests = []
        for row in rows:
            template = choose(self.templates(), "single", turns=len(row.prompt), reference=bool(row.reference))
            values = values_of(row.prompt, row.answer, None, row.reference)
            requests.append((template, self._request(template, values)))
        replies, bill = self._ask(requests, store)
        return [Rating(row.id, *reply) for row, reply in zip(rows, replies, strict=True)], bill

    def _request(self, template: Template, values: Mapping[str, str]) -> dict[str, Any]:
        """The request to send. Its reply is stored under it. It includes the address, but not the key."""
        one_token = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20} if template.output_format == "token" else {}
        body = {
            "model": self.asked_model,
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
        """Send requests. Returns a triple for each of them, and the cost.

        The triple is (score of the first answer or rating, whether there was a reply, its text or the reason why not).
        Equal requests are sent once. Requests with a stored reply are not sent.
        """
        kept = Store(folder / "llm")
        keys = [json_digest(request, 40) for _, request in asked]
        requests = {key: request for key, (_, request) in zip(keys, asked, strict=True)}
        stored = {key: kept.get(request, _is_reply) for key, request in requests.items()}
        replies = {key: reply for key, reply in stored.items() if reply is not None}
        cached = len(replies)
        open_keys = [key for key in requests if key not in replies]
        failures: dict[str, str] = {}
        bill = JudgingCost()
        if open_keys:
            endpoint = Endpoint(self.base_url, self._key(), self._limits())

            def keep(i: int, reply: Reply) -> None:
                kept.put(requests[open_keys[i]], reply)
                replies[open_keys[i]] = reply

            found = endpoint.ask_all([requests[key]["body"] for key in open_keys], keep, self._progress)
            failures, bill = {open_keys[i]: reason for i, reason in found.items()}, endpoint.bill
        bill.cached = cached
        bill.failures = Counter(failures[key] for key in keys if key in failures)
        results = [
            (*_read(template, replies[key]), True) if key in replies else (math.nan, failures[key], False)
            for key, (template, _) in zip(keys, asked, strict=True)
        ]
        return [(score, judged, said) for score, said, judged in results], bill

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
        """The key. A server on this machine needs none, but the client does, so it gets the word "none"."""
        return os.environ.get(self.api_key_env, "") or ("none" if is_on_this_machine(self.base_url) else "")


def is_on_this_machine(address: str) -> bool:
    """Whether the host of an address is this machine. False for an address that can't be read."""
    try:
        return urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:
        return False


def _is_reply(reply: Mapping[str, Any]) -> bool:
    """Whether a stored reply has a text, and log-probabilities of first tokens or none."""
    logps = reply.get("first_token")
    known = isinstance(logps, dict) and all(isinstance(value, float | int) for value in logps.values())
    return isinstance(reply.get("text"), str) and (logps is None or known)


def _read(template: Template, reply: Reply) -> tuple[float, str]:
    """(score, text) of a reply. The score is NaN if the reply holds no verdict."""
    if template.output_format != "token":
        return template.parse(reply["text"]), reply["text"]
    if not reply.get("first_token"):
        return math.nan, "the reply came without log-probabilities: this endpoint can't be used with a token template"
    return template.parse_tokens(reply["first_token"]), reply["text"]
