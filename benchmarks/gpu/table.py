"""The figures of `results.json` as Markdown, dated, ready for docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAMES = {
    "torch eager": "PyTorch eager, FP16",
    "torch reduce-overhead": "torch.compile reduce-overhead, FP16",
    "torch max-autotune": "torch.compile max-autotune, FP16",
    "onnxruntime-cuda": "ONNX Runtime CUDA, FP16",
}


def markdown(results: dict[str, Any], command: str) -> str:
    """The whole text: machine and method, then gates and times of every network."""
    env, tensorrt, torch = results["environment"], results["tensorrt"], results["torch"]
    device = tensorrt["device"]
    capability = f", compute capability {device['compute_capability']}" if device["compute_capability"] else ""
    libraries = (
        f"TensorRT {tensorrt['version']}, PyTorch {torch['torch']} (CUDA {torch['cuda']}, cuDNN {torch['cudnn']})"
    )
    lines = [f"## {env['time'][:10]}: TensorRT on {device['name']}", ""]
    if results["rehearsal"]:
        lines += [
            "**A rehearsal: ONNX Runtime on the CPU stood in for TensorRT. None of these figures means anything.**",
            "",
        ]
    lines += [
        f"`{command}`",
        "",
        f"{device['name']}{capability}, driver {device['driver'] or '-'}; {env['cpu']}, {env['os']}; {libraries}, "
        f"Python {env['python']}{_other(env, tensorrt)}.",
        "",
        f"Method: {results['method']}.",
    ]
    for entry in results["networks"].values():
        lines += [
            "",
            f"### `{entry['model']}`, {entry['parameters'] / 1e6:.2f} M parameters, {entry['gmac']:.2f} GMAC",
            "",
        ]
        lines += _gates(entry["gates"])
        for batch, block in sorted(entry["batches"].items(), key=lambda item: int(item[0])):
            lines += ["", *_block(int(batch), block, entry["images"])]
    return "\n".join(lines) + "\n"


def _other(env: dict[str, Any], tensorrt: dict[str, Any]) -> str:
    return "" if env["python"] == tensorrt["python"] else f", TensorRT's {tensorrt['python']}"


def _gates(gates: Sequence[dict[str, Any]]) -> list[str]:
    rows = []
    for gate in gates:
        failed, refused = (str(gate[key] or "").partition(";")[0] for key in ("failed", "refused"))
        verdict = f"failed: {failed}" if failed else f"refused: {refused}" if refused else "passed"
        cells = ["-"] * 6
        if "dice" in gate:
            size = f"{gate['plan_bytes'] / 2**20:.1f}" if gate["plan_bytes"] else "-"
            cells = [
                f"{gate['agreement']:.4f} ({gate['images']})",
                f"{gate['dice']:.4f} ({gate['labelled']})",
                f"{gate['reference_dice']:.4f}",
                str(gate["layers"] or "-"),
                size,
                f"{gate['seconds']:.0f}",
            ]
        rows.append([gate["precision"], verdict, *cells])
    columns = ("engine", "gate", "agreement with FP32 (frames)", "Dice on `val` (images)", "Dice of FP32", "layers",
               "plan, MiB", "built in, s")  # fmt: skip
    return _table(columns, rows)


def _block(batch: int, block: dict[str, Any], images: int) -> list[str]:
    measured = [row for row in block["rows"] if "skipped" not in row]
    peers = [row["name"] for row in measured if not row["name"].startswith("tensorrt")]
    rows = []
    for row in measured:
        compute = _interval(row["compute_ms"], row["compute_interval_ms"]) if row["compute_ms"] else "-"
        ratios = [row["times_as_fast_as"][peer] for peer in peers]
        rows.append(
            [
                _name(row["name"]),
                _interval(row["host_ms"], row["host_interval_ms"]),
                compute,
                f"{1e3 * batch / row['host_ms']:.0f}",
                *(_interval(r["median"], r["interval"], 2) for r in ratios),
                f"{100 * row['share_of_rate']:.0f} %{'' if row['compute_ms'] else ' (host)'}",
                f"{row['agreement']:.4f}",
            ]
        )
    against = [f"times as fast as {_name(peer)}" for peer in peers]
    columns = ["", "host, ms (95 %)", "compute, ms (95 %)", "frames/s", *against,
               "of the FP16 matrix rate", "agreement with FP32"]  # fmt: skip
    lines = [
        f"Batch {batch}, {block['time']}, {block['rounds']} rounds; FP16 matrix rate {block['matrix']['tflops']:.3g} "
        f"TFLOPS ({block['matrix']['how']}); agreement on {images} `val` frames:",
        "",
        *_table(columns, rows),
    ]
    notes = [f"{_name(row['name'])}: {row['note']}" for row in measured if row["note"]]
    notes += [f"not measured: {_name(row['name'])}: {row['skipped']}" for row in block["rows"] if "skipped" in row]
    return lines + (["", *(f"- {note}" for note in notes)] if notes else [])


def _name(name: str) -> str:
    return NAMES.get(name) or name.replace("tensorrt", "TensorRT").replace("fp", "FP").replace("int8", "INT8")


def _interval(value: float, ends: Sequence[float], digits: int = 3) -> str:
    return f"{value:.{digits}f} ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = "| " + " | ".join(columns) + " |"
    rule = "|---" + "|---:" * (len(columns) - 1) + "|"
    return [line, rule, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]
