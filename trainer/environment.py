"""What a run was made with: versions, devices, revision, command. Written beside its result, no host or user names."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from ssmt_edge import __version__

PACKAGES = ("torch", "lightning", "monai", "transformers", "numpy", "opencv-python-headless")


def environment(processes: int) -> dict[str, Any]:
    """As JSON values: `versions` {name: version, also `python` and `cuda`}, `devices` (names), `processes`, `threads`
    (of each), `git_revision` (of the folder the package lies in, with `+changes` if it has any; None where there is
    none), `command`."""
    versions = {"ssmt-edge": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions,
        "devices": gpus or [_processor()],
        "processes": processes,
        "threads": torch.get_num_threads(),
        "git_revision": _git_revision(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    home = Path(__file__).resolve().parent.parent
    if not (home / ".git").exists():  # installed: the repository around it, if any, is another one
        return None
    try:
        git = ["git", "-C", os.fspath(home)]
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=20, check=True)
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changes = subprocess.run(status, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
