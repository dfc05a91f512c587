"""Sends many requests to an OpenAI-compatible chat endpoint, which may be slow, busy, broken or gone.

The retries of the client library are off. They are not counted, ignore the cap on cost, and do not treat a reply that
is cut off in the middle as a failure.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from alignlab.judges.base import JudgingCost
from alignlab.progress import Progress, silent
from alignlab.spelling import counted

Body = Mapping[str, Any]
Reply = dict[str, Any]

_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Limits:
    """When to wait, and when to stop sending requests. A cap of 0 means no limit.

    timeout, backoff:    seconds.
    price_in, price_out: price per million tokens of prompts and of replies.
    The fields are described in `alignlab.judges.llm.LLM`.
    """

    concurrency: int
    timeout: float
    retries: int
    backoff: float
    max_calls: int
    max_cost: float
    price_in: float
    price_out: float
    give_up_after: int


class Endpoint:
    """Sends chat requests and counts their cost.

    A failed request is sent again after a pause. The pause doubles each time, or lasts as long as the server asks for.
    No more requests are sent in these cases:

    - `give_up_after` requests in a row have failed for good.
    - A cap on calls or cost is reached.
    - The server would reject every request (wrong key, model or address).
    """

    def __init__(self, base_url: str, api_key: str, limits: Limits) -> None:
        from openai import OpenAI

        self._client = OpenAI(base_url=base_url or None, api_key=api_key, timeout=limits.timeout, max_retries=0)
        self._limits = limits
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._why = ""
        self._failed_in_a_row = 0
        self.bill = JudgingCost()

    def ask_all(
        self, bodies: Sequence[Body], keep: Callable[[int, Reply], None], progress: Progress = silent
    ) -> dict[int, str]:
        """Send every body. `keep(i, reply)` is called as replies arrive, by one thread at a time.

        Returns i -> reason, for the requests without a reply.
        """
        failures: dict[int, str] = {}

        def ask(i: int) -> None:
            try:
                reply = self._ask(bodies[i])
            except _Unanswered as error:
                failures[i] = str(error)
                return
            with self._lock:
                keep(i, reply)

        with ThreadPoolExecutor(self._limits.concurrency, thread_name_prefix="judge") as pool:
            futures = [pool.submit(ask, i) for i in range(len(bodies))]
            try:
                for future in progress(futures, "judging"):
                    future.result()
            except BaseException:  # Ctrl-C or a full disk: stored replies stay, and waiting requests are not sent
                self._stop("stopped")
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return failures

    def _ask(self, body: Body) -> Reply:
        reason = ""
        for attempt in range(self._limits.retries + 1):
            self._count_call()
            try:
                reply = self._send(body)
            except _Failed as error:
                reason = str(error)
                if error.hopeless:
                    self._stop(reason)
                if error.final:
                    break
                pause = self._limits.backoff * 2**attempt * random.uniform(0.5, 1.0)
                if attempt < self._limits.retries:
                    self._stopped.wait(min(max(pause, error.wait), _LONGEST_PAUSE))
            else:
                self._count_reply(reply)
                return reply
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self._limits.give_up_after:
                self._stop(
                    f"given up after {counted(self._failed_in_a_row, 'failure')} in a row, the last one: {reason}"
                )
        raise _Unanswered(reason)

    def _count_call(self) -> None:
        limits = self._limits
        with self._lock:
            if limits.max_calls and self.bill.calls >= limits.max_calls:
                self._stop(f"max_calls={limits.max_calls} reached")
            if limits.max_cost and self.bill.cost >= limits.max_cost:
                self._stop(f"max_cost={limits.max_cost} reached")
            if self._stopped.is_set():
                raise _Unanswered(self._why)
            self.bill.calls += 1

    def _count_reply(self, reply: Reply) -> None:
        with self._lock:
            self._failed_in_a_row = 0
            self.bill.prompt_tokens += reply["prompt_tokens"]
            self.bill.completion_tokens += reply["completion_tokens"]
            limits = self._limits
            spent = reply["prompt_tokens"] * limits.price_in + reply["completion_tokens"] * limits.price_out
            self.bill.cost += spent / 1e6

    def _stop(self, why: str) -> None:
        if not self._stopped.is_set():
            self._why = why
            self._stopped.set()

    def _send(self, body: Body) -> Reply:
        import openai

        rest = {key: value for key, value in body.items() if key not in ("model", "messages")}
        try:
            completion: Any = self._client.chat.completions.create(
                model=body["model"], messages=body["messages"], extra_body=rest
            )
            return _reply(completion)
        except openai.APITimeoutError as error:
            raise _Failed(f"no reply within {self._limits.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise _Failed(f"no connection: {error.__cause__ or error}") from error
        except openai.APIStatusError as error:
            code = error.status_code
            raise _Failed(
                f"the server says {code}: {_short(error.message)}",
                final=code < 500 and code not in (408, 409, 429),
                hopeless=code in (401, 403, 404),
                wait=_seconds(error.response.headers.get("retry-after")),
            ) from error
        except (openai.OpenAIError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise _Failed(f"the reply is not a chat completion: {_short(str(error))}") from error


class _Unanswered(Exception):  # noqa: N818 - a state, which callers get as text
    """A request that gets no reply."""


class _Failed(Exception):  # noqa: N818
    """One attempt that failed.

    final:    sending the request again would fail too.
    hopeless: all other requests would fail too.
    wait:     seconds that the server asks to wait.
    """

    def __init__(self, reason: str, *, final: bool = False, hopeless: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.final, self.hopeless, self.wait = final, hopeless, wait


def _reply(completion: Any) -> Reply:
    """The stored part of a reply: text, log-probabilities (nats) of likely first tokens or None, token counts."""
    choice, usage = completion.choices[0], completion.usage
    first = choice.logprobs.content[0].top_logprobs if choice.logprobs and choice.logprobs.content else None
    logps: dict[str, float] | None = None if first is None else {}
    for token in first or ():
        name = token.token.strip()  # " m" and "m" mean the same
        logps = {**(logps or {}), name: _log_sum(float(token.logprob), (logps or {}).get(name, -math.inf))}
    return {
        "text": choice.message.content or "",
        "first_token": logps,
        "prompt_tokens": usage.prompt_tokens if usage else 0,
        "completion_tokens": usage.completion_tokens if usage else 0,
    }


def _log_sum(x: float, y: float) -> float:
    high, low = max(x, y), min(x, y)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0


def _short(text: str) -> str:
    return " ".join(text.split())[:200]
