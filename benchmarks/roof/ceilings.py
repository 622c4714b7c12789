"""What this machine allows at most: products a second and bytes a second, measured with the threads of the bench."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engines import openvino_cpu
from engines.onnxruntime_cpu import session_options

_SECONDS, _PASSES = 0.12, 2
"""that each product is repeated, and how often it has its turn"""
_GPU_SECONDS = 120
_MIB = (1, 4, 16, 64, 256)
"""bytes that all threads together touch once a pass"""

Run = Callable[[], object]


def ceilings(threads: int, precisions: Sequence[str] = ("fp32", "int8")) -> dict[str, Any] | None:
    """Measures what a CPU allows; about 6 s.

    Products are those of the library and the operator that is fastest: a matrix product and convolutions in ONNX
    Runtime and, where it is installed, in OpenVINO; INT8 is unsigned times signed bytes. The best call counts, because
    a ceiling is asked for.

    Where OpenVINO computes in bfloat16, as engines of that backend then do in part, `bf16` is measured as well.

    Args:
        threads: of the libraries, and as many read and write arrays; as those of the engines.
        precisions: of `fp32`, `int8`.

    Returns:
        `products`, an object a precision: `threads`, `precision`, `gmac_s` (1e9 multiply-accumulates a second), `how`,
        `tried` (`gmac_s` by way); `bandwidth`: `gb_s` (1e9 bytes read and written a second, of arrays beyond every
        cache), `how`, `by_size`: a list of `mib`, `gb_s`, the same for smaller arrays. None without the package onnx,
        in which the products are written.
    """
    if importlib.util.find_spec("onnx") is None:
        return None
    short = ("bf16",) if openvino_cpu.computes_in_bfloat16() else ()
    return {
        "products": [_products(precision, threads) for precision in (*precisions, *short)],
        "bandwidth": bandwidth(threads),
    }


def gpu_ceilings() -> dict[str, Any] | None:
    """`ceilings` of the GPU, in half precision, by PyTorch in a process of its own: `products` (`threads` is None),
    `bandwidth`. None without a GPU, or without a PyTorch that knows it."""
    code = "import json, trainer.rates; print(json.dumps(trainer.rates.gpu_rates()))"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_GPU_SECONDS)
        rates = json.loads(done.stdout.strip().rpartition("\n")[2] or "null")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if rates is None:
        return None
    matrix = rates["matrix"]
    half = {"threads": None, "precision": "fp16", "gmac_s": 500 * matrix["tflops"], "how": matrix["how"]}
    return {"products": [half], "bandwidth": rates["memory"]}


def _products(precision: str, threads: int) -> dict[str, Any]:
    from benchmarks.roof.products import products  # needs onnx, which is for counting and not for running

    runs: dict[str, tuple[int, Run]] = {}
    for what, model, mac, feed in products("int8" if precision == "int8" else "fp32"):
        if precision != "bf16":
            runs[f"ONNX Runtime, {what}"] = mac, _onnxruntime(model, feed, threads)
        run = _openvino(model, feed, threads, "bf16" if precision == "bf16" else "f32")
        if run is not None:
            runs[f"OpenVINO, {what}"] = mac, run
    tried = dict.fromkeys(runs, 0.0)
    for name, (mac, run) in _PASSES * list(runs.items()):  # apart in time: a busy moment must not hit all of one
        tried[name] = max(tried[name], mac / _best_seconds(run) / 1e9)
    best = max(tried, key=lambda name: tried[name])
    return {
        "threads": threads,
        "precision": precision,
        "gmac_s": tried[best],
        "how": f"the best of {len(tried)} ways: {best}",
        "tried": tried,
    }


def _best_seconds(run: Run) -> float:
    """The fastest call within `_SECONDS`, after one that does not count."""
    run()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (before := time.perf_counter()) < end or best == float("inf"):
        run()
        best = min(best, time.perf_counter() - before)
    return best


def _onnxruntime(model: bytes, feed: NDArray[Any], threads: int) -> Run:
    options = session_options(threads)
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": feed})


def _openvino(model: bytes, feed: NDArray[Any], threads: int, floats: str) -> Run | None:
    """None where OpenVINO is not installed, or does not take the graph."""
    if openvino_cpu.missing():
        return None
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": floats,
    }
    core = openvino_cpu.core()
    try:
        request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    except RuntimeError:
        return None
    return lambda: request.infer({0: feed}, share_inputs=True, share_outputs=True)


def bandwidth(threads: int) -> dict[str, Any]:
    """See `ceilings`: reading (`numpy.max`), copying and adding float32 arrays in so many threads, the fastest pass of
    the fastest of the three; a copy counts the bytes that it reads and those that it writes."""
    sizes = [(mib, max(_passes(mib, threads).items(), key=lambda item: item[1])) for mib in _MIB]
    largest, (way, rate) = sizes[-1]
    return {
        "gb_s": rate,
        "how": f"{way} float32 arrays of {largest} MiB in all, {threads} threads; the best of reading, copying, adding",
        "by_size": [{"mib": mib, "gb_s": rate} for mib, (_, rate) in sizes],
    }


def _passes(mib: float, threads: int) -> dict[str, float]:
    """1e9 bytes a second by what is done, of arrays that take `mib` MiB together."""
    found = {}
    for way, arrays in (("reading", 1), ("copying", 2), ("adding", 3)):
        length = int(mib * 2**20 / 4 / arrays / threads)
        crew = [[np.ones(length, np.float32) for _ in range(arrays)] for _ in range(threads)]
        found[way] = 4 * length * arrays * threads / _best_pass(crew) / 1e9
    return found


def _best_pass(crew: list[list[NDArray[np.float32]]]) -> float:
    """Seconds that all threads together take for one pass over their arrays, the best of several; numpy lets other
    threads run meanwhile. Small arrays are passed over many times between two readings of the clock."""
    repeats = max(1, int(2**24 / (4 * len(crew) * sum(len(a) for a in crew[0]))))
    barrier = threading.Barrier(len(crew))
    marks: list[list[float]] = [[] for _ in crew]
    end = time.perf_counter() + _SECONDS / 2
    going = [True]  # as the first thread decides: one that decided for itself would wait for others that have left

    def work(place: int) -> None:
        one, *rest = crew[place]
        while True:
            if place == 0:
                going[0] = time.perf_counter() < end or len(marks[0]) < 2
            barrier.wait()
            if not going[0]:
                return
            before = time.perf_counter()
            for _ in range(repeats):
                _pass(one, rest)
            marks[place].append(time.perf_counter() - before)
            barrier.wait()

    workers = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(crew))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # a pass is over when its last thread is
    return min(max(times) for times in zip(*marks, strict=True)) / repeats


def _pass(one: NDArray[np.float32], rest: list[NDArray[np.float32]]) -> None:
    if not rest:
        one.max()
    elif len(rest) == 1:
        np.copyto(rest[0], one)
    else:
        np.add(one, rest[0], out=rest[1])
