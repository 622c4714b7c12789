"""What an installation brings, what it leaves out, and what the command line says where something is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["torch", "lightning", "onnxruntime", "tensorrt", "openvino", "onnx", "numpy", "cv2", "pydicom", "av"]
HELP = "import sys; sys.argv = ['ssmt-edge', '--help']; from ssmt_edge.cli import main; main()"


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a new interpreter that finds `paths` and then this checkout first."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))}
    command = [sys.executable, "-c", code]
    # -c looks in the working folder before PYTHONPATH: not in the checkout
    return subprocess.run(command, cwd=ROOT.anchor, env=env, capture_output=True, text=True, timeout=60)


def declared() -> dict[str, set[str]]:
    """Names of the packages that pyproject.toml asks for, by extra; the base's under ''."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {extra: {re.split(r"[^\w.-]", line)[0] for line in lines} for extra, lines in groups.items()}
    return {extra: found - {"ssmt-edge"} for extra, found in names.items()}


def test_help_imports_nothing_heavy() -> None:
    listing = f"import atexit, sys; atexit.register(lambda: print('HEAVY', [m for m in {HEAVY} if m in sys.modules]));"
    answer = python(listing + HELP)
    assert answer.returncode == 0, answer.stderr
    assert "build-engine" in answer.stdout
    assert answer.stdout.endswith("HEAVY []\n")


def test_help_is_quick() -> None:
    seconds = []
    for _ in range(5):
        before = os.times()
        assert python(HELP).returncode == 0
        after = os.times()
        # processor time, because a busy machine stretches the other one
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(seconds) < 0.6, seconds


def test_tables_of_packages_match_pyproject() -> None:
    from ssmt_edge.cli.doctor import BASE
    from ssmt_edge.packages import DISTRIBUTIONS, EXTRAS

    names = declared()
    assert set(BASE.values()) == names.pop("")
    del names["dev"]
    listed = {(DISTRIBUTIONS.get(name, name), extra) for name, extra in EXTRAS.items()}
    assert listed == {(name, extra) for extra, found in names.items() for name in found}


def test_constraints_pin_every_package_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
    pin = re.compile(r"[\w.-]+==[\w.]+( ; python_full_version [<>=]+ '3\.\d+(\.\*)?')?")
    assert not [line for line in lines if not pin.fullmatch(line)]
    pinned = {line.partition("==")[0] for line in lines}
    names = declared()
    del names["tensorrt"]  # follows the driver
    assert set().union(*names.values()) <= pinned


@pytest.mark.parametrize("layout", ["trainer.py", "trainer/__init__.py"])
def test_a_foreign_trainer_is_named(tmp_path: Path, layout: str) -> None:
    foreign = tmp_path / layout
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise RuntimeError('the foreign package was imported')\n")
    code = """
import sys
from ssmt_edge.errors import MissingDependency
from ssmt_edge.packages import needs
try:
    with needs("trainer"):
        from trainer.nets import build_network
except MissingDependency as error:
    sys.exit(str(error))
"""
    answer = python(code, tmp_path)
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert str(foreign) in line
    assert str(ROOT) in line


def test_doctor_in_json() -> None:
    code = "import sys; sys.argv = ['ssmt-edge', 'doctor', '--json']; from ssmt_edge.cli import main; main()"
    answer = python(code)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(package["version"] for package in found["base"])
    if not found["gpus"]:
        assert any("GPU" in line for line in found["backends"]["tensorrt"]["missing"])


def find_python(version: str) -> str | None:
    """An interpreter of that version which runs, on the path or under pyenv."""
    under_pyenv = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    for candidate in (shutil.which(f"python{version}"), *map(str, under_pyenv)):
        # pyenv puts a program of every version on the path, most of which only say that they are not selected
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    return None


class BaseInstall:
    """ssmt-edge with its base dependencies in an environment of its own, away from the checkout."""

    def __init__(self, interpreter: str, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self._call(interpreter, "-m", "venv", folder / "venv")
        pip = (self.bin / "python", "-m", "pip", "--disable-pip-version-check", "-q")
        probe = subprocess.run(
            [*pip, "download", "--no-deps", "--no-cache-dir", "-d", folder, "mdurl"], capture_output=True
        )
        if probe.returncode:
            pytest.skip("no package index is reachable")
        tree = folder / "tree"  # a build writes beside its sources, so it gets a copy
        tree.mkdir()
        for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        for name in ("ssmt_edge", "trainer", "engines", "benchmarks"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        self._call(*pip, "install", "-c", tree / "constraints.txt", tree)
        shutil.rmtree(tree)

    def _call(self, *command: object) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        answer = subprocess.run(
            [str(part) for part in command], cwd=self.folder, env=env, capture_output=True, text=True
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    def python(self, code: str) -> str:
        return self._call(self.bin / "python", "-c", code)

    def ssmt_edge(self, *arguments: str) -> str:
        return self._call(self.bin / "ssmt-edge", *arguments)


@pytest.fixture(scope="module", params=["this", "3.10"])
def base(request: pytest.FixtureRequest) -> Iterator[BaseInstall]:
    interpreter = sys.executable if request.param == "this" else find_python(request.param)
    if interpreter is None:
        pytest.skip(f"no Python {request.param} on this machine")
    with tempfile.TemporaryDirectory() as folder:
        yield BaseInstall(interpreter, Path(folder))


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestBaseInstall:
    def test_it_leaves_the_extras_out(self, base: BaseInstall) -> None:
        code = "from importlib.metadata import distributions as d; print(*(x.metadata['Name'] for x in d()))"
        installed = {name.lower() for name in base.python(code).split()}
        names = declared()
        assert names.pop("") <= installed
        assert not installed & set().union(*names.values())

    def test_every_module_of_the_core_imports(self, base: BaseInstall) -> None:
        code = """
import importlib, pkgutil, ssmt_edge
from ssmt_edge.packages import EXTRAS
for module in pkgutil.walk_packages(ssmt_edge.__path__, "ssmt_edge."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # a viewer, a DICOM SEG writer: the module itself may need its extra
        assert error.name.partition(".")[0] in EXTRAS, error
print(ssmt_edge.__file__)
"""
        assert "site-packages" in base.python(code)

    def test_the_wheel_is_complete(self, base: BaseInstall) -> None:
        code = """
from importlib.resources import files
print(*(file.name for folder in ("", "weights") for file in (files("ssmt_edge") / folder).iterdir()))
"""
        shipped = {path.name for path in (ROOT / "ssmt_edge/weights").glob("*")} | {"py.typed"}
        assert shipped <= set(base.python(code).split())

    def test_help_and_doctor_run(self, base: BaseInstall) -> None:
        assert "build-engine" in base.ssmt_edge("--help")
        found: dict[str, Any] = json.loads(base.ssmt_edge("doctor", "--json"))
        assert not [package for package in found["base"] if package["problem"]]
        assert not [package for package in found["extras"] if package["version"]]

    def test_baseline_jpeg_and_jpeg_2000_in_dicom_decode(self, base: BaseInstall) -> None:
        code = """
from pydicom.examples import get_path
from pydicom.pixels import get_decoder, iter_pixels
from pydicom.uid import JPEG2000Lossless, RLELossless
print(sum(frame.shape == (240, 320, 3) for frame in iter_pixels(get_path("ybr_color"))))
print(get_decoder(JPEG2000Lossless).is_available, get_decoder(RLELossless).is_available)
"""
        assert base.python(code).split() == ["30", "True", "True"]

    def test_a_missing_extra_is_one_line(self, base: BaseInstall) -> None:
        code = """
from ssmt_edge.errors import MissingDependency
from ssmt_edge.packages import needs
try:
    with needs("trainer"):
        from trainer.nets import build_network
except MissingDependency as error:
    print(error)
"""
        advice = "torch is not installed; it comes with the extra 'train': pip install 'ssmt-edge[train]'\n"
        assert base.python(code) == advice
