"""`ssmt-edge doctor`: what this machine can do, and what is missing for the rest."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

# import name -> name on the package index of what every installation has; the extras' are in ssmt_edge.packages
BASE = {
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "onnxruntime": "onnxruntime",
    "pydicom": "pydicom",
    "PIL": "pillow",
    "pylibjpeg": "pylibjpeg",
    "openjpeg": "pylibjpeg-openjpeg",
    "av": "av",
    "typer": "typer",
    "rich": "rich",
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what this machine can do, and what is missing for the rest."""
    from ssmt_edge.errors import VerdictNo

    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print_table(found)
    if broken := [package["name"] for package in found["base"] if package["problem"]]:
        raise VerdictNo(f"{', '.join(broken)}: missing or broken; install ssmt-edge again: pip install ssmt-edge")


def examine() -> dict[str, Any]:
    """What this machine has, as JSON values.

    Keys: `ssmt_edge`, `python` (versions), `os`, `base` and `extras` (lists of {name, version, extra, problem}; version
    None: not installed; problem: one line, or None), `cpu` {name, threads, instruction_set}, `gpus` (list of {name,
    compute_capability, driver, cuda}), `backends` {name: {version, missing (list of lines; empty: ready)}}, `weights`
    {file: bytes}, `sources` and `probes` (what `simulate` needs more for) {scheme or kind of file: {found (text; None:
    nothing), problem (one line, or None)}}, `opencv_gstreamer` (bool; None: OpenCV does not work).
    """
    import platform

    from ssmt_edge import __version__
    from ssmt_edge.packages import EXTRAS

    return {
        "ssmt_edge": __version__,
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "base": [_base_package(module, name) for module, name in BASE.items()],
        "extras": [_extra_package(module, extra) for module, extra in EXTRAS.items()],
        "cpu": _cpu(),
        "gpus": _gpus(),
        "backends": _backends(),
        "weights": _weights(),
        "sources": _sources(),
        "probes": _probes(),
        "opencv_gstreamer": _gstreamer(),
    }


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _import(module: str) -> tuple[Any, str | None]:
    """The imported module, or None and one line that says why not."""
    import importlib

    try:
        return importlib.import_module(module), None
    except ModuleNotFoundError as error:
        return None, f"{error.name} is not installed"
    except Exception as error:  # a broken installation fails in any way: a missing library, a clash of versions
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _base_package(module: str, name: str) -> dict[str, Any]:
    found, problem = _import(module)
    # OpenCV on a Jetson comes with the system, of which pip knows nothing
    version = _version(name) or getattr(found, "__version__", None)
    return {"name": name, "version": version, "extra": None, "problem": problem}


def _extra_package(module: str, extra: str) -> dict[str, Any]:
    """Without an import, which takes seconds for some."""
    from importlib.util import find_spec

    from ssmt_edge.packages import DISTRIBUTIONS

    installed = find_spec(module) is not None
    problem = None if installed else f"pip install 'ssmt-edge[{extra}]'"
    name = DISTRIBUTIONS.get(module, module)
    return {"name": name, "version": _version(name) if installed else None, "extra": extra, "problem": problem}


def _cpu() -> dict[str, Any]:
    import os

    device, problem = _import("engines.device")  # not under `needs`: a doctor has to work where numpy is broken
    cpu = {} if problem else vars(device.cpu_device())
    return {
        "name": cpu.get("name"),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instruction_set": cpu.get("instruction_set"),
    }


def _gpus() -> list[dict[str, str]]:
    """NVIDIA GPUs as the driver's own library tells them, on Jetsons as well; empty without driver or GPU."""
    device, problem = _import("engines.device")
    names = ("name", "compute_capability", "driver", "cuda")
    return [] if problem else [{name: getattr(gpu, name) for name in names} for gpu in device.gpus()]


def _backends() -> dict[str, dict[str, Any]]:
    """What `build-engine --backend NAME` would say of each; empty where the engines themselves do not import."""
    engines, problem = _import("engines")
    found = {}
    for name in {} if problem else engines.BACKENDS:
        module, broken = _import(engines.BACKENDS[name])
        missing = [broken] if broken else module.missing()
        found[name] = {"version": None if missing else module.version(), "missing": missing}
    return found


def _weights() -> dict[str, int]:
    from pathlib import Path

    folder = Path(__file__).resolve().parent.parent / "weights"
    files = sorted(path for path in folder.glob("*") if path.suffix in {".onnx", ".safetensors"})
    return {path.name: path.stat().st_size for path in files}


def _sources() -> dict[str, dict[str, str | None]]:
    """What live sources and DICOM files would find here. Opens no device and asks no network."""
    from importlib.metadata import EntryPoint, entry_points

    def registered(entry: EntryPoint) -> tuple[str | None, str | None]:
        try:
            entry.load()
        except Exception as error:  # whatever another package does when it is imported
            return None, " ".join(f"{entry.value} cannot be imported: {type(error).__name__}: {error}".split())[:200]
        return entry.value, None

    sources, problem = _import("ssmt_edge.sources")
    if problem:
        return {}
    rows = {"rtsp, http": _ffmpeg("rtsp"), "v4l2": _v4l2(), "csi": _csi(), "igtl": _igtl(), "dicom": _dicom()}
    others = [entry for entry in entry_points(group=sources.ENTRY_POINTS) if entry.name not in sources.BY_SCHEME]
    rows |= {entry.name: registered(entry) for entry in others}
    return {name: {"found": found, "problem": problem} for name, (found, problem) in rows.items()}


def _ffmpeg(format: str) -> tuple[str | None, str | None]:
    av, problem = _import("av")
    if problem:
        return None, problem
    if not any(format in names.split(",") for names in av.formats_available):
        return None, f"this PyAV has no {format}; take the one from pip: pip install --force-reinstall av"
    return f"FFmpeg in PyAV {av.__version__}", None


def _v4l2() -> tuple[str | None, str | None]:
    from pathlib import Path

    found, problem = _ffmpeg("v4l2")
    if problem:
        return found, problem
    devices = [
        f"/dev/{folder.name} ({(folder / 'name').read_text().strip()})"
        for folder in sorted(Path("/sys/class/video4linux").glob("video*"))
    ]
    return ", ".join(devices) or None, None if devices else "no camera or frame grabber is connected"


def _csi() -> tuple[str | None, str | None]:
    from ssmt_edge.errors import SourceError

    csi, problem = _import("ssmt_edge.sources.csi")
    if problem:
        return None, problem
    try:
        return csi.source_element(csi.Camera(0)).partition(" ")[0], None
    except SourceError as error:
        return None, str(error)


def _igtl() -> tuple[str | None, str | None]:
    package = _extra_package("pyigtl", "igtl")
    return package["version"] and f"pyigtl {package['version']}", package["problem"]


def _probes() -> dict[str, dict[str, str | None]]:
    rtsp, problem = _import("ssmt_edge.simulate.rtsp")
    found = None if problem else rtsp.python_with_server()
    if problem is None and found is None:
        problem = rtsp.NOT_INSTALLED
    return {"rtsp": {"found": found and f"GStreamer's RTSP server in {found}", "problem": problem}}


def _dicom() -> tuple[str | None, str | None]:
    pixels, problem = _import("pydicom.pixels")
    if problem:
        return None, problem
    from pydicom import uid

    readable: list[str] = []
    not_readable: list[str] = []
    for name, syntax in {
        "RLE": uid.RLELossless,
        "JPEG": uid.JPEGBaseline8Bit,
        "lossless JPEG": uid.JPEGLosslessSV1,
        "JPEG-LS": uid.JPEGLSLossless,
        "JPEG 2000": uid.JPEG2000,
        "HTJ2K": uid.HTJ2K,
    }.items():
        (readable if pixels.get_decoder(syntax).is_available else not_readable).append(name)
    missing = f"{', '.join(not_readable)}: pip install 'ssmt-edge[dicom]'" if not_readable else None
    return ", ".join([*readable, "MPEG-2, H.264, H.265"]), missing


def _gstreamer() -> bool | None:
    cv2, problem = _import("cv2")
    if problem:
        return None
    lines = [line.split() for line in cv2.getBuildInformation().splitlines()]
    return any(words[:2] == ["GStreamer:", "YES"] for words in lines)


def _print_table(found: dict[str, Any]) -> None:
    sections: list[list[tuple[str, str, str]]] = [[]]

    def row(what: str, value: object, advice: str | None = None) -> None:
        sections[-1].append((what, str(value or "-"), advice or ""))

    row("Python", found["python"])
    for package in found["base"]:
        row(package["name"], package["version"], package["problem"])
    sections.append([])
    for package in found["extras"]:
        row(f"{package['name']} [{package['extra']}]", package["version"], package["problem"])
    sections.append([])
    cpu = found["cpu"]
    row("CPU", f"{cpu['name']}, {cpu['threads']} threads, {cpu['instruction_set']}")
    gpus = [
        f"{gpu['name']} (compute capability {gpu['compute_capability']}, CUDA {gpu['cuda']})" for gpu in found["gpus"]
    ]
    row("NVIDIA GPU", ", ".join(gpus))
    for name, backend in found["backends"].items():
        missing = backend["missing"]
        row(f"backend {name}", "not ready" if missing else f"{backend['version']}, ready", "\n".join(missing))
    sections.append([])
    weights = [f"{name} ({size / 1e6:.1f} MB)" for name, size in found["weights"].items()]
    row("shipped weights", ", ".join(weights), None if weights else "install ssmt-edge again")
    for name, source in found["sources"].items():
        row("DICOM" if name == "dicom" else f"source {name}", source["found"], source["problem"])
    for name, probe in found["probes"].items():
        row(f"simulate --as {name}", probe["found"], probe["problem"])
    gstreamer = found["opencv_gstreamer"]
    row("GStreamer in OpenCV", "yes" if gstreamer else "no", None if gstreamer else "not needed: csi:// does without")
    _print_sections(f"ssmt-edge {found['ssmt_edge']} on {found['os']}", sections)


def _print_sections(title: str, sections: list[list[tuple[str, str, str]]]) -> None:
    from rich.box import HORIZONTALS
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    rows = [row for section in sections for row in section]
    table = Table(
        title=title, title_justify="left", box=HORIZONTALS, show_edge=False, pad_edge=False, collapse_padding=True
    )
    for i, name in enumerate(("what", "found")):
        # narrow, so that from 80 columns on no command in the advice is broken
        longest = max(len(word) for row in rows for word in row[i].split())
        table.add_column(name, overflow="fold", max_width=min(max(longest, console.width // 4), console.width // 3))
    table.add_column("what to do for more", overflow="fold")
    for section in sections:
        for row in section:
            table.add_row(*map(escape, row))
        table.add_section()
    console.print(table)
