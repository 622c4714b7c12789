"""What rots in docs/deployment.md and docker/ while nobody builds an image: names of files, extras, verbs, options."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from test_install import declared

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PAGE = ROOT / "docs" / "deployment.md"


def instructions(path: Path) -> list[tuple[str, str]]:
    """Word and arguments of every instruction, continued lines joined, comments left out."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(word, arguments.strip()) for word, _, arguments in pairs]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_container_file_takes_exists(path: Path) -> None:
    found = instructions(path)
    assert "Not built here" in path.read_text(encoding="utf-8").replace("\n# ", " ")
    assert f"docker build -f docker/{path.name}" in path.read_text(encoding="utf-8")
    copied = {part for word, arguments in found if word == "COPY" for part in arguments.split()[:-1]}
    missing = [name for name in copied if not (ROOT / name).exists()]
    assert not missing, f"COPY of {missing}, which the checkout does not have"
    # what pip builds the package from
    assert {"pyproject.toml", "README.md", "LICENSE", "ssmt_edge", "trainer", "engines", "benchmarks"} <= copied
    pip = next(arguments for word, arguments in found if word == "RUN" and "-c constraints.txt" in arguments)
    extras = set(re.findall(r"\.\[([\w,-]+)\]", pip)[0].split(","))
    assert extras <= set(declared()), f"extras {extras}, pyproject.toml has {sorted(declared())}"
    words = dict(found)
    assert words["ENTRYPOINT"] == '["ssmt-edge"]'
    assert words["USER"] not in ("root", "0")
    assert words["CMD"] == '["doctor"]'


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_base_image_is_pinned_and_named_in_the_page(path: Path) -> None:
    found = instructions(path)
    base = next(arguments for word, arguments in found if word in ("ARG", "FROM")).removeprefix("BASE=")
    assert re.fullmatch(r"(nvcr\.io/nvidia/)?[\w-]+:[\w.-]+", base) and not base.endswith("latest")
    assert f"| `docker/{path.name}` | `{base}` |" in PAGE.read_text(encoding="utf-8")


def test_all_container_files_are_looked_at() -> None:
    assert {path.stem for path in DOCKERFILES} == {"cpu", "desktop", "jetpack6"}


def commands(start: str) -> Iterator[list[str]]:
    """Words after `start` of every such command in the page's code blocks."""
    for block in re.findall(r"```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(start):
                yield shlex.split(line[len(start) :], comments=True)


def test_every_verb_and_option_of_the_page_exists() -> None:
    from ssmt_edge.cli.main import app

    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    seen = set()
    for words in commands("ssmt-edge "):
        seen.add(words[0])
        known = {name for parameter in verbs[words[0]].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words
    assert {"build-engine", "verify", "doctor", "bench", "run", "export"} <= seen
    options = set(re.findall(r"`(--[a-z][a-z-]+)(?: [A-Z0-9][^`]*)?`", PAGE.read_text(encoding="utf-8")))
    build = {name for parameter in verbs["build-engine"].params for name in parameter.opts}
    assert options - build == {"--trt-python", "--build-arg", "--vs"}  # of the GPU script, of docker, of bench


def test_every_option_of_the_gpu_script_in_the_page_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu.__main__ import _options

    found = list(commands("python -m benchmarks.gpu "))
    assert len(found) >= 3
    for words in found:
        monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *words])
        _options()


def test_the_client_in_the_page_names_what_exists() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    compile(code, str(PAGE), "exec")
    lines = [line for line in code.splitlines() if line.startswith("from ssmt_edge")]
    exec("\n".join(lines), {})
    assert len(lines) == 4
