"""The options of the script. See `benchmarks.gpu` for what has to be installed."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ssmt_edge.errors import SsmtError, UsageError, VerdictNo

if TYPE_CHECKING:
    from benchmarks.gpu.steps import Settings

PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    options = _options()
    try:
        run(options)
    except SsmtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def run(options: argparse.Namespace) -> None:
    """Carries out the steps.

    Raises:
        VerdictNo: all is done and written, but a gate refused an engine or one could not be built.
    """
    from benchmarks.gpu import remote
    from benchmarks.gpu.measure import measure_all
    from benchmarks.gpu.remote import Process
    from benchmarks.gpu.steps import build_all, export_all
    from benchmarks.gpu.table import markdown
    from ssmt_edge.files import replacing

    settings = _settings(options)
    steps = options.only or ["export", "build", "measure"]
    if "export" in steps:
        export_all(settings, say)
    if steps == ["export"]:
        return
    here = Path(sys.executable)
    with ExitStack() as stack:

        def start(python: Path, name: str) -> Process:
            log = settings.out / "logs" / f"{name}.log"
            return stack.enter_context(Process(python, log, settings.rehearse, settings.out / "caches"))

        tensorrt = start(options.trt_python or here, "tensorrt")
        remote.use(tensorrt)
        say(f"TensorRT {remote.version()} on {remote.device().name}")
        if "build" in steps:
            build_all(settings, say)
        if "measure" in steps:
            results = measure_all(settings, tensorrt, start(here, "torch"), say)
            with replacing(settings.out / "results.md") as part:
                command = shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]])
                part.write_text(markdown(results, command), encoding="utf-8")
            say(f"wrote {settings.out / 'results.json'} and {settings.out / 'results.md'}")
    bad = [
        f"{network.folder.name} {name}: {built['refused'] or built['failed']}"
        for network in settings.networks()
        for name, built in network.builds().items()
        if name in PRECISIONS and (built["refused"] or built["failed"])
    ]
    if bad:
        raise VerdictNo("; ".join(bad))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _settings(options: argparse.Namespace) -> Settings:
    from benchmarks.gpu.steps import PEERS, Settings

    out = options.out.resolve()
    checkpoints, data = options.checkpoint, options.data
    if options.dry_run:
        from ssmt_edge import weights
        from ssmt_edge.phantom import write_set

        checkpoints = checkpoints or [weights.CHECKPOINT]
        if data is None:
            data = out / "phantoms"
            if not data.exists():
                write_set(data, 40, 0, size=(96, 128), seed=7)
    if not checkpoints or data is None:
        raise UsageError("--checkpoint and --data are needed, except with --dry-run")
    for path in checkpoints:
        if not path.is_file():
            raise UsageError(f"--checkpoint {path} is not a file")
    if wrong := [peer for peer in options.peers if peer not in PEERS]:
        raise UsageError(f"--peers {wrong[0]!r}, expected some of {', '.join(PEERS)}")
    if wrong := [name for name in options.precision if name not in PRECISIONS]:
        raise UsageError(f"--precision {wrong[0]!r}, expected some of {', '.join(PRECISIONS)}")
    if min(options.batch) < 1 or options.rounds < 3:
        raise UsageError(f"batch {min(options.batch)} and {options.rounds} rounds, expected at least 1 and 3")
    return Settings(
        checkpoints=tuple(checkpoints),
        data=data,
        out=out,
        precisions=tuple(options.precision),
        batches=tuple(sorted(set(options.batch))),
        peers=tuple(options.peers),
        rounds=options.rounds,
        calib_frames=options.calib_frames,
        max_dice_drop=options.max_dice_drop,
        rehearse=options.dry_run,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="TensorRT engines of checkpoints on this GPU: built, judged by the Dice gate, timed against "
        "PyTorch and ONNX Runtime in turns. Every step keeps what an earlier run left in --out: a stopped run goes on.",
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, action="append", default=[], help="Checkpoint that train wrote; may be repeated.")
    add("--data", type=Path, help="Labelled data set: train calibrates, val judges.")
    add("--out", type=Path, required=True, help="Folder for engines, results.json and results.md.")
    add("--trt-python", type=Path, help="Interpreter that has TensorRT and PyCUDA; this one without it.")
    add("--only", action="append", choices=["export", "build", "measure"], help="Only this step; may be repeated.")
    add("--precision", type=_words, default=PRECISIONS, metavar="NAME,...", help="Default: fp32,fp16,int8.")
    add("--batch", type=_numbers, default=(1, 8, 32), metavar="N,...", help="Default: 1,8,32. Sizes measured by "
        "earlier runs stay in results.json, so they can come one by one.")  # fmt: skip
    add("--peers", type=_words, default=("eager", "reduce-overhead", "max-autotune"), metavar="NAME,...",
        help="Ways to run PyTorch; default: eager,reduce-overhead,max-autotune (minutes to compile).")  # fmt: skip
    add("--rounds", type=int, default=10, help="Turns of each contender, default 10.")
    add("--calib-frames", type=int, default=256, help="Training frames to calibrate on at most, default 256.")
    add("--max-dice-drop", type=float, default=0.005, help="Of the gate, default 0.005.")
    add("--dry-run", action="store_true", help="Rehearse on the CPU, ONNX Runtime in TensorRT's place; without "
        "--checkpoint and --data on the shipped weights and phantoms.")  # fmt: skip
    return parser.parse_args()


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected numbers such as 1,8,32") from None


if __name__ == "__main__":
    main()
