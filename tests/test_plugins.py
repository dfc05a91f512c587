"""Plug-ins: what loads them, what is refused, and what counts in the id of a run."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore

from alignlab import plugins
from alignlab.cli.hydra_app import _listed
from alignlab.config.own_plugins import load_plugins, plugins_for
from alignlab.config.registry import GROUPS, schemas, store_schemas
from alignlab.errors import ConfigError
from alignlab.optim.base import SCHEDULES, Schedule
from alignlab.plugins import activate, active, packed, unpacked
from alignlab.tracking.metrics import check_known

TEMPLATE = Path(__file__).parents[1] / "starter"
CLI = Callable[..., Any]
BANDIT = ["model=bandit", "data=bandit", "tracking=none", "evaluation=off", "trainer.max_steps=2"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    activate([])
    for name in list(plugins._loaded):
        plugins._forget(name)


@pytest.fixture
def my_parts(tmp_path: Path) -> Path:
    """The plug-in of the template, as a folder in the working directory."""
    return Path(shutil.copytree(TEMPLATE / "my_parts", tmp_path / "my_parts"))


def told(words: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_plugins(words)
    return [f"{problem.value}: {problem.allowed}" for problem in caught.value.problems]


def write(file: str, text: str) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text)


def test_parts_are_there_while_a_plugin_is_active(my_parts: Path) -> None:
    before = schemas()
    assert "squared_hinge" not in before["objective"]
    with plugins_for(["./my_parts"]):
        (plugin,) = active()
        assert (plugin.name, plugin.folder, plugin.version) == ("my_parts", my_parts, "")
        added = {group: sorted(set(schemas()[group]) - set(before[group])) for group in schemas()}
        assert {group: names for group, names in added.items() if names} == {
            "objective": ["squared_hinge"], "data": ["sums"], "tracking": ["lines"], "judge": ["shorter"],
            "reward": ["shorter"], "metric": ["margin_spread"], "callback": ["weight_norm"], "benchmark": ["additions"],
        }  # fmt: skip
        check_known({"train/logratios/margins_std": 1.0})
    assert active() == ()
    assert schemas() is before
    with pytest.raises(KeyError, match="margins_std"):
        check_known({"train/logratios/margins_std": 1.0})
    assert str(my_parts.parent) not in sys.path


def test_hydra_forgets_the_schemas_of_plugins(my_parts: Path) -> None:
    """Other Hydra applications of the process don't see them, and a command without plug-ins has no such option."""

    def stored() -> list[str]:
        store_schemas()
        return ConfigStore.instance().list("schema/objective")

    @dataclass
    class Foreign:
        """A schema of another application."""

    ConfigStore.instance().store(group="schema/objective", name="foreign", node=Foreign, provider="another")
    before = stored()
    assert "squared_hinge.yaml" not in before
    assert "foreign.yaml" in before
    with plugins_for(["./my_parts"]):
        assert set(stored()) == {*before, "squared_hinge.yaml"}
        assert "margin_spread.yaml" in ConfigStore.instance().list("schema/metric")
    assert ConfigStore.instance().list("schema/objective") == before
    assert ConfigStore.instance().list("schema/metric") == []
    load_plugins(["./my_parts"])
    assert "squared_hinge.yaml" in stored(), "they are stored again"
    activate([])
    assert stored() == before
    del ConfigStore.instance().repo["schema"]["objective"]["foreign.yaml"]


def test_what_a_module_does_when_it_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It can't end the command, and what it prints is not mixed with the output of the command."""
    write("ends/objectives/ends.py", "import sys\nsys.exit('no')")
    write("ended/__init__.py", "raise SystemExit")
    (ends,), (ended,) = told(["./ends"]), told(["./ended"])
    assert f"ends.objectives.ends can't be imported: SystemExit: no ({tmp_path / 'ends/objectives/ends.py'}" in ends
    assert "ended can't be imported: SystemExit: " in ended
    code = (TEMPLATE / "my_parts/judges/shorter.py").read_text()
    write("talks/judges/talkative.py", f"{code}\nprint('hello')")
    load_plugins(["./talks"])
    assert capsys.readouterr() == ("", "hello\n")


def test_code_is_imported_anew_after_an_edit(my_parts: Path) -> None:
    def loss() -> tuple[str, float]:
        with plugins_for(["./my_parts"]):
            made = schemas()["objective"]["squared_hinge"](beta=0.1)
            return active()[0].digest, made.loss_at_reference

    first, at_first = loss()
    assert loss() == (first, at_first)
    file = my_parts / "objectives/squared_hinge.py"
    file.write_text(file.read_text().replace("return 1.0", "return 2.0"))
    second, at_second = loss()
    assert (at_first, at_second) == (1.0, 2.0)
    assert second != first
    (my_parts / "conf/objective/squared_hinge.yaml").write_text("beta: 1")
    (my_parts / "__pycache__").mkdir()
    (my_parts / "__pycache__/x.pyc").write_text("")
    (my_parts / ".hidden").write_text("")
    assert plugins._digest(my_parts) == second, "values of YAML files are in the config of a run"


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    write("bad/objectives/oops.py", "x = 1 +")
    write("bad/judges/oops.py", "import nothing_of_this_name")
    write("taken/conf/objective/dpo.yaml", "beta: 1")
    shutil.copytree(TEMPLATE / "my_parts/objectives", "named/objectives")
    Path("named/objectives/squared_hinge.py").rename("named/objectives/dpo.py")
    write("lost/conf/objective/lost.yaml", "defaults: ['/schema/objective/lost@_here_']")
    write("unread/conf/objective/unread.yaml", "a: [")
    Path("nothing").mkdir()
    found = told(["./bad", "./taken", "./named", "./lost", "./unread", "./nothing"])
    wanted = [
        ("bad", "bad.objectives.oops can't be imported: SyntaxError: invalid syntax"),
        ("taken", "conf/objective/dpo.yaml has the name of an option of alignlab; rename the file"),
        ("named", "named.objectives.dpo has the name of a part of alignlab; rename the file"),
        ("lost", "but objectives/lost.py with a subclass of Objective is not there"),
        ("unread", "conf/objective/unread.yaml can't be read"),
        ("nothing", "has no parts"),
    ]
    assert len(found) == len(wanted)
    for text, (name, part) in zip(found, wanted, strict=True):
        assert text.startswith(f"{tmp_path / name}: ")
        assert part in text
    assert active() == ()


CUBE = """from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from alignlab.objectives.base import Objective
from alignlab.types import Requires

@dataclass
class Cube(Objective):
    weight: float = 1.0
    requires: ClassVar[Requires] = Requires(data="pairs", reference=True)

    def __call__(self, batch):
        return batch.chosen.logratio("sum") ** 3
"""
LINE = '    requires: ClassVar[Requires] = Requires(data="pairs", reference=True)\n'


@pytest.mark.parametrize(
    ("before", "after", "text", "line"),
    [
        (LINE, "", "lacks the class attribute requires", LINE.strip()),
        ("requires: ClassVar[Requires]", "requires: Requires", "has requires as a setting", LINE.strip()),
        ('Requires(data="pairs", reference=True)', '"pairs"', "its value is no Requires", LINE.strip()),
        ("__call__", "loss", "lacks the method __call__", "def __call__(self, batch: Any) -> torch.Tensor: ..."),
        ("float = 1.0", "set = None", "has the setting weight with a type that a config can't hold",
         "weight: <bool, int, float, str, list[str] or dict[str, float]>"),
        ("@dataclass\n", "", "is no dataclass, so weight can't be set", "@dataclass above `class Cube`"),
    ],
)  # fmt: skip
def test_what_an_objective_lacks(before: str, after: str, text: str, line: str) -> None:
    write("mine/objectives/cube.py", CUBE.replace(before, after))
    write("mine/conf/objective/cube.yaml", "defaults: ['/schema/objective/cube@_here_']")
    with pytest.raises(ConfigError) as caught:
        load_plugins(["./mine"])
    (problem,) = caught.value.problems
    assert problem.allowed.startswith("objectives/cube.py: class Cube ")
    assert text in problem.allowed
    assert problem.type_this == f"{line}   in objectives/cube.py"


def test_a_whole_objective_lacks_nothing() -> None:
    write("mine/objectives/cube.py", CUBE)
    write("mine/conf/objective/cube.yaml", "defaults: ['/schema/objective/cube@_here_']")
    load_plugins(["./mine"])
    cube = schemas()["objective"]["cube"]
    assert cube(weight=2.0).weight == 2.0
    with pytest.raises(ConfigError, match="names a field that Odd does not have"):
        type("Odd", (cube,), {"strength": "beta"})()


def test_what_a_part_of_each_kind_lacks() -> None:
    """A class with nothing in it: each method and class attribute that alignlab's own parts of the kind have."""
    folders = {group.package: group.base for name, group in GROUPS.items() if name != "reward"}
    for package, base in {**folders, SCHEDULES: Schedule}.items():
        folder = package.removeprefix("alignlab.").replace(".", "/")
        code = f"from {base.__module__} import {base.__name__}\nclass Bare({base.__name__}):\n    pass\n"
        write(f"mine/{folder}/bare.py", code)
    assert sorted(text.partition("mine: ")[2].replace(": class Bare lacks the", "") for text in told(["./mine"])) == [
        "callbacks/bare.py method build",
        "data/sources/bare.py method fingerprint",
        "data/sources/bare.py method pairs",
        "evaluation/benchmarks/bare.py method scores",
        "judges/bare.py method compare",
        "metrics/bare.py method __call__",
        "models/adapters/bare.py class attribute can_switch_off",
        "models/adapters/bare.py method wrap",
        "models/sources/bare.py method fingerprint",
        "models/sources/bare.py method load",
        "objectives/bare.py class attribute requires",
        "objectives/bare.py method __call__",
        "optim/bare.py method build",
        "optim/schedules/bare.py method factor",
        "rollout/engines/bare.py method sampler",
        "strategies/bare.py method build",
        "tracking/sinks/bare.py method open",
    ]


def test_two_parts_in_one_file_and_a_base_of_parts() -> None:
    code = (TEMPLATE / "my_parts/judges/shorter.py").read_text()
    write("twice/judges/brief.py", code + code[code.index("@dataclass") :].replace("Shorter", "Briefer"))
    (found,) = told(["./twice"])
    assert "twice.judges.brief defines several parts (Briefer, Shorter); give each a file of its own" in found
    above = "class Brief(ScoreJudge):\n    pass\n\n\n"
    write("based/judges/brief.py", code.replace("@dataclass", f"{above}@dataclass").replace("r(ScoreJ", "r(Brief#"))
    text = Path("based/judges/brief.py").read_text().replace("Brief#udge", "Brief")
    write("based/judges/brief.py", text)
    load_plugins(["./based"])
    assert schemas()["judge"]["brief"].__name__ == "Shorter"


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("nothing_of_this_name", "no such package is installed"),
        ("my_parts", "there is a folder of this name; a folder is written with ./"),
        ("this", "is a single module"),
        ("./none", "there is no such folder"),
        (".", "must be a folder of its own"),
        ("..", "must be a folder of its own"),
        ("./with-dash", "must have a name that can be imported"),
        ("./json", "has the name of another Python module"),
    ],
)
def test_names_that_are_no_plugins(word: str, text: str, my_parts: Path) -> None:
    Path("with-dash").mkdir()
    Path("json").mkdir()
    (found,) = told([word])
    assert text in found


def test_two_plugins_of_one_name_and_two_parts_of_one_name(my_parts: Path) -> None:
    shutil.copytree(my_parts, "other/my_parts")
    assert "has the name of another plug-in" in told(["./my_parts", "./other/my_parts"])[0]
    shutil.copytree(my_parts / "objectives", "second/objectives")
    assert told(["./my_parts", "./second"]) == [
        f"{Path.cwd() / 'second'}: second.objectives.squared_hinge has the name of a part of another plug-in; "
        "rename the file"
    ]


def test_a_metric_that_there_is_already_is_refused(my_parts: Path) -> None:
    write("my_parts/tracking/metrics.py", "BATCH = {'rewards/margins': 'mine'}")
    with plugins_for(["./my_parts"]), pytest.raises(ConfigError, match="rewards/margins"):
        check_known({"train/logratios/margins_std": 1.0})


def test_an_installed_package_registers_itself(my_parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(my_parts.parent))
    entry = metadata.EntryPoint("mine", "my_parts", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == plugins.GROUP else [])
    load_plugins([])
    assert [(plugin.source, plugin.typed) for plugin in active()] == [("my_parts", False)]
    load_plugins(["my_parts"])
    assert [plugin.typed for plugin in active()] == [True], "it is named once, although it is registered too"
    write("my_parts/judges/broken.py", "x = (")
    with pytest.raises(ConfigError) as caught:
        load_plugins([])
    (problem,) = caught.value.problems
    assert problem.allowed.endswith("\nits package is installed, so it is loaded without being named")
    assert problem.type_this == "pip uninstall my_parts"
    with pytest.raises(ConfigError) as caught:
        load_plugins(["my_parts"])
    assert caught.value.problems[0].type_this == ""


@pytest.mark.slow
def test_workers_load_the_plugins_of_a_task(my_parts: Path) -> None:
    load_plugins(["./my_parts"])
    content = packed(schemas()["objective"]["squared_hinge"](beta=0.25))
    code = (
        "import sys; from alignlab.plugins import active, unpacked\n"
        "made = unpacked(sys.stdin.buffer.read()); print(made.beta, [p.source for p in active()])"
    )
    env = {**os.environ, "PYTHONPATH": str(TEMPLATE.parent)}
    done = subprocess.run([sys.executable, "-c", code], cwd="/", env=env, input=content, capture_output=True)
    assert done.stdout.decode().strip() == f"0.25 ['{my_parts}']", done.stderr.decode()
    activate([])
    assert unpacked(pickle.dumps(([], pickle.dumps(3)))) == 3


def test_a_run_with_a_plugin(alignlab: CLI, my_parts: Path) -> None:
    """Its parts are used, its code counts in the id, and its record does not load it."""
    words = [*BANDIT, "plugins=./my_parts", "objective=squared_hinge", "optim.schedule=half", "metric=margin_spread"]
    assert alignlab("train", *words, "callback=weight_norm", "tracking=lines").code == 0
    (folder,) = Path("outputs/runs").glob("squared_hinge-*")
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["plugins"] == ["./my_parts"]
    assert record["plugins"]["my_parts"]["source"] == str(my_parts)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["train/learning_rate"] / rows[0]["train/learning_rate"] for row in rows[:2]] == pytest.approx([1, 0.1])
    assert rows[0]["train/weights/norm"] > 0
    assert rows[0]["train/logratios/margins_std"] >= 0
    assert (folder / "lines.txt").read_text().splitlines()[-1] == f"{folder.name} done"

    unloaded = alignlab("evaluate", f"run={folder.name}")
    assert unloaded.code == 2
    assert "was made with the plug-in my_parts, not loaded here" in unloaded.err
    assert "type: plugins=./my_parts" in unloaded.err
    assert "my_parts" not in [plugin.name for plugin in active()]

    def run_id(*more: str) -> str:
        out: str = alignlab("check", *BANDIT, *more).out
        return out.split()[0]

    own = run_id("objective=squared_hinge", "plugins=[./my_parts]")
    assert run_id("objective=dpo", "plugins=[./my_parts]") == run_id("objective=dpo")
    with_schedule = run_id("objective=dpo", "plugins=[./my_parts]", "optim.schedule=half")
    file = my_parts / "judges/shorter.py"
    file.write_text(file.read_text() + "\n# edited\n")
    assert run_id("objective=squared_hinge", "plugins=[./my_parts]") != own
    assert run_id("objective=dpo", "plugins=[./my_parts]", "optim.schedule=half") != with_schedule


def test_yaml_in_the_working_directory(alignlab: CLI, my_parts: Path) -> None:
    """Options in ./conf are found; they can't load code, and don't hide alignlab's own."""
    write("conf/objective/mine.yaml", "defaults:\n  - /schema/objective/dpo@_here_\n  - _self_\nbeta: 0.7\n")
    write("conf/objective/ipo.yaml", "beta: 7\n")
    write("conf/experiment/sly.yaml", "# @package _global_\nplugins: [./my_parts]\n")
    write("conf/experiment/hook.yaml", "# @package _global_\nhydra:\n  callbacks: {a: {_target_: os.getcwd}}\n")
    found = alignlab("check", *BANDIT, "objective=mine")
    assert found.code == 0
    assert "conf/objective/ipo.yaml" in found.err
    sly = alignlab("check", *BANDIT, "experiment=sly")
    assert sly.code == 2
    assert "a plug-in is code, so it is loaded only if the command line names it" in sly.err
    hook = alignlab("check", *BANDIT, "experiment=hook")
    assert hook.code == 2
    assert "may not be set by a config file" in hook.err


def test_what_is_typed_for_plugins(alignlab: CLI, my_parts: Path) -> None:
    assert alignlab("check", *BANDIT, "plugins=[]").code == 0
    wrong = alignlab("check", *BANDIT, "plugins={a:b}")
    assert wrong.code == 2
    assert "must be a list of packages and folders" in wrong.err
    twice = alignlab("check", *BANDIT, "plugins=./my_parts", "plugins=[./my_parts]", "objective=squared_hinge")
    assert twice.out.startswith("squared_hinge-")
    listed = alignlab("objectives", "squared_hinge", "plugins=./my_parts")
    assert "max(0, 1 - βh)²" in listed.out
    assert listed.code == 0
    shown = " ".join(alignlab("train", "--help", "plugins=./my_parts").out.partition("\nPlug-ins: ")[2].split())
    assert shown.startswith("plugins=my_package,./my_parts adds options from your own packages and folders")
    assert "my_parts: benchmark=additions; callback=weight_norm; data=sums; experiment=lab_squared_hinge; " in shown
    assert "optim.schedule=half; sweep=hinge_beta Keys. Set a value" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "package"),
    [(["local", "launcher.at_once=1"], "pickle"), (["slurm", "launcher.cluster=local", "launcher.cpus=1"], "submitit"),
     (["ray"], "ray")],
    ids=["local", "slurm", "ray"],
)  # fmt: skip
def test_workers_of_each_launcher_have_the_plugins(
    launcher: list[str], package: str, alignlab: CLI, my_parts: Path
) -> None:
    """A sweep over a part of a plug-in runs in other processes. Its page is written later without the plug-in."""
    pytest.importorskip(package)
    sweep = ["-m", "objective=dpo,squared_hinge", "sweep.name=s", "plugins=./my_parts", f"launcher={launcher[0]}"]
    done = alignlab("train", *BANDIT, "trainer.progress=false", *sweep, *launcher[1:])
    assert done.code == 0, done.err
    (file,) = Path("outputs/runs").glob("squared_hinge-*/run.json")
    record = json.loads(file.read_text())
    assert (record["status"], list(record["plugins"])) == ("done", ["my_parts"])
    assert record["pid"] != os.getpid()
    activate([])
    plugins._forget("my_parts")
    assert alignlab("report", "s").code == 0
    assert file.parent.name in alignlab("runs", "sweep=s").out


@pytest.mark.slow
def test_the_template_is_built_installed_and_used(tmp_path: Path) -> None:
    """Its wheel has the YAML files and registers itself, so that `plugins=` is not needed."""
    source = shutil.copytree(TEMPLATE, tmp_path / "template")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": f"{TEMPLATE.parent}{os.pathsep}{site}"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "alignlab", *words]
        return subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)

    trained = run("train", *BANDIT, "-m", "objective=dpo,squared_hinge", "launcher=local", "launcher.at_once=1")
    assert trained.returncode == 0, trained.stderr
    (file,) = elsewhere.glob("outputs/runs/squared_hinge-*/run.json")
    record = json.loads(file.read_text())
    assert record["plugins"]["my_parts"]["version"] == "0.1.0"
    (file,) = elsewhere.glob("outputs/runs/dpo-*/run.json")
    assert json.loads(file.read_text())["plugins"] == {}
    tested = run("test-plugin", "my_parts")
    assert (tested.returncode, "objective=squared_hinge: 18 contracts kept" in tested.stdout) == (0, True), (
        tested.stdout
    )


def test_what_to_type_for_plugins_is_read_as_it_is() -> None:
    assert plugins.how_to_name(["./my_parts"]) == "plugins=./my_parts"
    assert plugins.how_to_name(["mine", "./my_parts"]) == "plugins=mine,./my_parts"
    (word,) = shlex.split(plugins.how_to_name(["./a b", "/c'd/e"]))
    assert _listed(word.removeprefix("plugins=")) == ["./a b", "/c'd/e"]
