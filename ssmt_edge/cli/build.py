"""`ssmt-edge export`, `build-engine` and `verify`: from a checkpoint to an engine that is proven to agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ssmt_edge.errors import UsageError
from ssmt_edge.packages import needs

TRT = "TensorRT"  # panel of the help

if TYPE_CHECKING:
    from ssmt_edge.dataset import Sample
    from ssmt_edge.spec import Precision


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint (.safetensors) that train wrote.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write.")],
    with_gland: Annotated[bool, typer.Option("--with-gland", help="Add the gland's mask as an output.")] = False,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Largest batch that engines will take.")] = 32,
    half_weights: Annotated[
        bool, typer.Option("--half-weights", help="Store weights in half precision: half the file, FP32 arithmetic.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a checkpoint into one ONNX file, compared with PyTorch after every step."""
    from ssmt_edge.cli.terminal import say

    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}, expected a file name that ends in .onnx")
    with needs("trainer"), needs("engines"):
        from engines.count import count
        from engines.export import export as write

        graph = write(checkpoint, with_gland, max_batch, half_weights, out, say)
        cost = count(graph.model)
    result = {
        "out": str(out),
        "model": graph.spec.model,
        "outputs": list(graph.outputs),
        "parameters": cost.parameters,
        "gmac": round(cost.gmac, 4),
        "gflops": round(cost.gflops, 4),
    }
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{out}: {graph.spec.model}, {', '.join(graph.outputs)}; {cost.parameters / 1e6:.2f} M parameters, "
            f"{cost.gmac:.2f} GMAC = {cost.gflops:.2f} GFLOPs a frame (convolutions and matrix products)"
        )


def build_engine(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_ONNX", help="Checkpoint, or ONNX file of export.")],
    out: Annotated[Path, typer.Option(help="Engine folder to write; an older engine there is replaced.")],
    precision: Annotated[str, typer.Option(metavar="fp32|fp16|int8")] = "fp32",
    backend: Annotated[
        str, typer.Option(metavar="auto|NAME", help="onnxruntime, openvino, onnxruntime-cuda or tensorrt.")
    ] = "auto",
    calib: Annotated[
        Path | None,
        typer.Option(help="Ultrasound to calibrate and compare on: folder, video, DICOM; or a calibration.json."),
    ] = None,
    calib_frames: Annotated[int, typer.Option(min=8, help="Frames to take of it at most, evenly spread.")] = 256,
    data: Annotated[Path | None, typer.Option(help="Labelled data set: Dice against truth joins the gate.")] = None,
    split: Annotated[str, typer.Option(metavar="train|val|test|all", help="Which part of --data.")] = "val",
    max_dice_drop: Annotated[float, typer.Option(min=0, max=1, help="Largest accepted loss against FP32.")] = 0.005,
    with_gland: Annotated[bool, typer.Option("--with-gland", help="From a checkpoint: add the gland's mask.")] = False,
    calib_method: Annotated[
        str, typer.Option(metavar="auto|minmax|percentile|entropy", help="How ranges are measured; auto tries all.")
    ] = "auto",
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="INT8: rank all layers, leave out the fewest that the gate asks."),
    ] = False,
    triton: Annotated[
        Path | None, typer.Option(help="Triton model repository to write an entry of the engine to, named like --out.")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="MIN,USUAL,MAX", help="Batches that the engine is made for.", rich_help_panel=TRT),
    ] = None,
    workspace_mib: Annotated[int | None, typer.Option(help="Memory a tactic may take.", rich_help_panel=TRT)] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="Folder of timing caches. Default: the user's cache.", rich_help_panel=TRT)
    ] = None,
    optimisation_level: Annotated[
        int | None, typer.Option(metavar="0..5", help="Low builds fast, high runs fast.", rich_help_panel=TRT)
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Loads in later minor versions, too.", rich_help_panel=TRT)
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Runs on other GPUs from Ampere on.", rich_help_panel=TRT)
    ] = False,
    tactic_sources: Annotated[
        str | None, typer.Option(metavar="NAME,...|none", help="Libraries to take kernels from.", rich_help_panel=TRT)
    ] = None,
    dla: Annotated[
        int | None, typer.Option(help="Core of the deep learning accelerator, GPU for the rest.", rich_help_panel=TRT)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Build an engine for this machine, calibrated on ultrasound and compared with FP32 before it is accepted."""
    from ssmt_edge.cli.terminal import progress_bar, say

    if precision not in ("fp32", "fp16", "int8"):
        raise UsageError(f"--precision {precision!r}, expected fp32, fp16 or int8")
    with needs("engines"):
        from engines.build import build_engine as build
        from engines.options import BuildOptions, TensorRtOptions
        from engines.triton import check_entry, write_triton

        options = BuildOptions(
            precision=cast("Precision", precision),
            backend=backend,
            calib=calib,
            calib_frames=calib_frames,
            max_dice_drop=max_dice_drop,
            data=data,
            split=split,
            with_gland=with_gland,
            calib_method=calib_method,
            sensitivity=sensitivity,
            tensorrt=TensorRtOptions(
                batch=_batch(batch),
                workspace_mib=workspace_mib,
                timing_cache=timing_cache,
                optimisation_level=optimisation_level,
                version_compatible=version_compatible,
                hardware_compatible=hardware_compatible,
                tactic_sources=_names(tactic_sources),
                dla=dla,
            ),
        )
        name = out.resolve().name
        if triton is not None:
            check_entry(out, triton, name)
        with progress_bar() as progress:
            manifest = build(source, out, options, _labelled(data, split), say, progress)
        if triton is not None:
            say(f"Triton serves it from {write_triton(out, triton, name)}")
    if as_json:
        print(json.dumps(manifest.to_dict(), indent=2))
    else:
        print(
            f"{out}: {manifest.spec.model} {precision}, {manifest.parameters / 1e6:.2f} M parameters, "
            f"{manifest.gmac:.2f} GMAC = {manifest.gflops:.2f} GFLOPs a frame"
        )


def verify(
    engine: Annotated[Path, typer.Argument(help="Engine folder.")],
    calib: Annotated[Path | None, typer.Option(help="Frames to compare on; phantoms without it.")] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled data set: Dice against truth as well.")] = None,
    split: Annotated[str, typer.Option(metavar="train|val|test|all", help="Which part of --data.")] = "val",
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Check an engine's files again and compare it with FP32: after a driver, power mode or system change."""
    from ssmt_edge.cli.terminal import say

    with needs("engines"):
        from engines.build import verify_engine

        parity = verify_engine(engine, calib, _labelled(data, split), say)
    if as_json:
        print(json.dumps(parity, indent=2))
    else:
        print(f"{engine}: files unchanged, agreement with FP32 {parity['agreement']:.4f} on {parity['images']} frames")


def _batch(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        smallest, usual, largest = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--batch {text!r}, expected three numbers such as 1,1,8") from None
    return smallest, usual, largest


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None or text == "none":
        return None if text is None else ()
    return tuple(name.strip() for name in text.split(","))


def _labelled(data: Path | None, split: str) -> list[Sample] | None:
    from ssmt_edge.dataset import load_samples, parse_split

    return None if data is None else load_samples(data, parse_split(split))
