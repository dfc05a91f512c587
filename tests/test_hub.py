"""Names of the hub stand for the commit in this machine's cache, so that an id is the same online and offline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignlab import hub
from alignlab.config.plan import require_reachable
from alignlab.data.sources.hh_rlhf import HHRLHF
from alignlab.data.sources.pairs import Pairs
from alignlab.errors import ConfigError, ModelError, UnreachableError
from alignlab.models.generation import save_model
from alignlab.models.sources.base import load_pretrained
from alignlab.models.sources.hub import Hub
from alignlab.models.sources.tiny import Tiny
from tests.hub_server import COMMIT, HubServer

Run = Callable[..., Any]
LATER = "2" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.find.cache_clear()
    yield tmp_path / "hub"
    hub.find.cache_clear()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on loopback, and no HF_HUB_OFFLINE."""
    with HubServer() as made:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", made.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield made


def cached(cache: Path, name: str, commit: str = COMMIT, kind: str = "models", revision: str = "main") -> Path:
    """The folder of a snapshot in the cache, with a name for its commit."""
    place = cache / f"{kind}--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(commit)
    (place / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    return place / "snapshots" / commit


def test_the_commit_of_the_cache_counts(cache: Path) -> None:
    cached(cache, "org/model")
    assert Hub(name="org/model").fingerprint() == f"org/model@{COMMIT}"
    assert list(Hub(name="org/model").unreachable()) == []
    assert hub.named("org/other", "v2") == "org/other@v2", "unknown"
    cached(cache, "org/model", LATER, revision="v2")
    assert Hub(name="org/model", revision="v2").fingerprint() == f"org/model@{LATER}"
    assert Hub(name="org/model", revision=LATER).fingerprint() == f"org/model@{LATER}"
    cached(cache, "org/set", LATER, "datasets")
    assert HHRLHF(path="org/set").fingerprint() == f"org/set@{LATER}"
    assert Pairs(path="org/set").fingerprint() != Pairs(path="org/set", revision="v1").fingerprint()
    assert Pairs(path="org/set").fingerprint() == Pairs(path="org/set", revision=LATER).fingerprint()


def test_an_id_is_the_same_online_and_offline(cache: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["models/org/model"] = {"config.json": b"{}"}
    assert Hub(name="org/model").fingerprint() == f"org/model@{COMMIT}"
    server.commit = LATER  # the branch moves
    hub.find.cache_clear()
    assert Hub(name="org/model").fingerprint() == f"org/model@{COMMIT}", "the cache decides"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.find.cache_clear()
    server.asked.clear()
    assert Hub(name="org/model").fingerprint() == f"org/model@{COMMIT}"
    assert server.asked == []


def test_a_model_is_loaded_at_that_commit(cache: Path) -> None:
    """Offline, and though the name of the branch stands for another commit by now."""
    model, tokenizer = Tiny(name="tiny", hidden_size=8, intermediate_size=8, heads=2, layers=1).load()
    save_model(model, tokenizer, cached(cache, "org/model"))
    found, _ = load_pretrained("org/model", dtype="float32")
    assert (found.name_or_path, found.revision) == ("org/model", COMMIT), "an adapter names the commit of its base"
    (cache / "models--org--model/refs/main").write_text(LATER)
    again, _ = load_pretrained("org/model", dtype="float32")
    assert again.revision == COMMIT, "one process uses one commit"


def test_what_can_not_be_had_is_told_at_once(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["models/org/model"] = {}
    (problem,) = Hub(name="org/model", revision="v9").unreachable()
    assert f"{server.address} has no model org/model, revision v9" in problem.allowed
    (problem,) = Hub(name="org/none").unreachable()
    assert ("status 404" in problem.allowed, problem.type_this) == (True, "hf auth login")
    server.status = 500
    (problem,) = Pairs(path="org/set").unreachable()
    assert "answers with status 500, and the cache has no data set org/set" in problem.allowed
    server.close()
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"model org/lost can't be loaded: http://127.0.0.1:\d+ can't be reached"):
        load_pretrained("org/lost", dtype="float32")
    with pytest.raises(UnreachableError, match="org/gone can't be reached"):
        Pairs(path="org/gone").pairs("train", None)
    assert time.monotonic() - begun < 10
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.find.cache_clear()
    (problem,) = HHRLHF(path="org/set").unreachable()
    assert problem.allowed == "HF_HUB_OFFLINE is set, and the cache of the hub has no data set org/set"
    assert problem.type_this.startswith("hf download org/set --repo-type dataset")


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing."""
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        (problem,) = Hub(name="org/model").unreachable()
        assert time.monotonic() - begun < 5
    assert "can't be reached (ReadTimeout), and the cache of the hub has no model org/model" in problem.allowed
    assert problem.type_this.startswith("hf download org/model   (where the hub can be reached), ")
    for said in ("HF_HUB_CACHE=<a copy of that cache>", "or   model.name=<a folder>", "or   HF_ENDPOINT=<mirror>"):
        assert said in problem.type_this


def test_paths_are_no_names(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    places = [str(tmp_path / "model"), "./here", "~/there", "a/b/c", ""]
    assert [hub.is_on_hub(place) for place in [*places, "gpt2", "org/model"]] == [False] * 5 + [True] * 2
    problem, *_ = Pairs(path=str(tmp_path / "model"), revision="v1").missing()
    assert "works only with hub sets" in problem.allowed


def test_rows_come_from_a_snapshot(cache: Path) -> None:
    """`hf download` puts it there; `datasets` has never read the set on this machine."""
    folder = cached(cache, "org/set", kind="datasets")
    rows = [f'{{"prompt": "p{i}", "chosen": "good {i}", "rejected": "bad"}}' for i in range(20)]
    (folder / "train.jsonl").write_text("\n".join(rows))
    loaded = Pairs(path="org/set").pairs("train", None)
    assert len(loaded.rows) == 18
    assert loaded.rows[0].chosen.startswith("good")


def test_all_that_is_out_of_reach_is_told_together() -> None:
    """Of the runs that are still to be trained."""

    def step(name: str, waiting: bool) -> Any:
        train = SimpleNamespace(model=Hub(name=f"org/{name}"), data=Pairs(path="org/set"))
        return SimpleNamespace(id=name, train=train, needs_training=lambda: waiting)

    parent, done, run = step("parent", True), step("done", False), step("run", True)
    with pytest.raises(ConfigError) as error:
        require_reachable([SimpleNamespace(chain=lambda: [parent, done, run])])  # type: ignore[list-item]
    told = [(problem.key, problem.value) for problem in error.value.problems]
    assert told == [("model.name", "org/parent"), ("data.path", "org/set"), ("model.name", "org/run")]


@pytest.mark.slow
def test_training_starts_nothing_without_the_hub(alignlab: Run, tmp_path: Path) -> None:
    words = ["model=hub", "model.name=org/none", "data=hh_rlhf", "data.path=org/set", "tracking=none"]
    for sweep in ([], ["-m", "seed=1,2"]):
        found = alignlab("train", *words, *sweep)
        assert found.code == 2
        assert [t for t in ("2 problems", "model.name = org/none", "data.path = org/set") if t not in found.err] == []
        assert not (tmp_path / "outputs/runs").exists()
    assert alignlab("check", *words).code == 0, "its rows and tokens are unchecked"
