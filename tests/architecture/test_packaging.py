"""The wheel is complete and works where it is installed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import metadata as metadata_of
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from scripts.pythons import steps

ROOT = Path(__file__).resolve().parents[2]

# SHA-256 of https://www.apache.org/licenses/LICENSE-2.0.txt
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_wheel_works_elsewhere(tmp_path: Path) -> None:
    """The wheel is built and unpacked, and works from another folder with its own conf/ and sweeps/."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in ("conf", "sweeps"):
        packed = {
            f.relative_to(site / "alignlab/_share" / name) for f in (site / "alignlab/_share" / name).rglob("*.yaml")
        }
        assert packed == {f.relative_to(ROOT / name) for f in (ROOT / name).rglob("*.yaml")}
    assert not list(site.glob("tests*"))
    (info,) = site.glob("alignlab-*.dist-info")
    assert digest((info / "licenses/LICENSE").read_bytes()) == APACHE_2
    assert "plotly.js" in (info / "licenses/NOTICE").read_text()
    assert {f.name for f in (site / "alignlab/reports/page").iterdir() if f.suffix != ".py"} == {
        "base.html", "macros.html", "page.html", "paper.html", "index.html", "page.css", "common.js", "page.js",
        "paper.js", "plotly-basic.min.js",
    }  # fmt: skip
    assert len(list((site / "alignlab/papers/figures").glob("*.csv"))) >= 10
    metadata = (info / "METADATA").read_text().splitlines()
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE", "Version: 0.2.0"} <= set(metadata)
    pythons = [line for line in metadata if "Python :: 3." in line]
    assert pythons == ["Classifier: Programming Language :: Python :: 3.11"], "only what the tests ran with"
    env = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import alignlab; print(alignlab.__path__)"], cwd=elsewhere, env=env, capture_output=True
    )
    assert str(site) in where.stdout.decode()
    command = [sys.executable, "-m", "alignlab", "check", "experiment=lab_dpo", "sweep=dpo_beta"]
    done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("starts from sft-") == 4


def test_the_source_archive_holds_the_license_and_what_tests_read(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        top = packed.getnames()[0].split("/")[0]
        license_text = packed.extractfile(f"{top}/LICENSE")
        assert license_text is not None
        assert digest(license_text.read()) == APACHE_2
        assert f"{top}/tests/objectives/golden.json" in packed.getnames()


def test_the_version_is_in_one_place() -> None:
    """The changelog has it as its newest entry. No other file of the package repeats it."""
    newest = (ROOT / "docs/CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1]
    assert newest.startswith("0.2.0 (")
    files = [*(ROOT / "alignlab").rglob("*.py"), ROOT / "README.md", ROOT / "CITATION.cff", ROOT / "mkdocs.yml"]
    assert [file.name for file in files if "0.2.0" in file.read_text(encoding="utf-8")] == []


@pytest.mark.slow
def test_the_source_archive_installs_and_trains(tmp_path: Path) -> None:
    """pip builds a wheel from the archive, and the installed package trains a run in another folder."""
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, str(archive)], check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    said = []
    for words in (["--version"], ["train", "experiment=lab_dpo", "debug=fast"]):
        command = [sys.executable, "-m", "alignlab", *words]
        done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == "alignlab 0.2.0\n"
    assert len(list(elsewhere.glob("outputs/runs/dpo-*/policy/config.json"))) == 1


def test_other_pythons_have_the_versions_that_exist_for_them(tmp_path: Path) -> None:
    """Packages of constraints.txt need Python 3.11. The Makefile says so, and 3.10 is tested without them."""
    assert "3.10.13" not in SpecifierSet(metadata_of("transformers")["Requires-Python"])
    wheel = tmp_path / "alignlab.whl"
    told = [" ".join(map(str, steps(python, Path("python"), wheel, tmp_path)[1])) for python in ("3.10", "3.12")]
    assert ["--constraint" in line for line in told] == [False, True]
    assert all(line.endswith(str(wheel)) for line in told)
    assert "sys.version_info < (3, 11)" in (ROOT / "Makefile").read_text()
