"""The wheel holds everything and works where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_wheel_works_elsewhere(tmp_path: Path) -> None:
    """Built, unpacked into a folder of its own, and asked from another one; its own conf/ and sweeps/ are used."""
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
    env = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    code = "import sys; from alignlab.cli import main; print(main.__file__); sys.exit(main.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "check", "experiment=lab", "sweep=dpo_beta"]
    done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout
    assert done.stdout.count("starts from sft-") == 4
