"""Reports of the bench with every part filled in: values are invented, their shape is that of schema 2."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing.measure import summary

STAGES = {"decode": 0.04, "preprocess": 0.09, "host_to_device": 0.02, "compute": 0.73, "device_to_host": 0.02,
          "host": 0.02, "postprocess": 0.08}  # fmt: skip


def latencies(
    seed: int, median_ms: float, frames: int = 400, *, spread: float = 0.04, correlation: float = 0.7
) -> NDArray[np.float64]:
    """Milliseconds a frame, float64 [frames]: log-normal around a median, neighbours alike (a first-order
    autoregressive process), and one frame in a hundred late, as real ones are."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=frames)
    state = noise[0]
    for i in range(1, frames):
        state = correlation * state + (1 - correlation**2) ** 0.5 * noise[i]
        noise[i] = state
    late = np.where(random.random(frames) < 0.01, random.uniform(1.2, 2.0, frames), 1.0)
    return median_ms * np.exp(spread * noise) * late


def engine(
    name: str, times: NDArray[np.float64], *, model: str = "ssmt-lite", precision: str = "int8", sha: str = "a" * 64
) -> dict[str, Any]:
    """One engine's part of a report, `latencies_ms` as given."""
    macs = {"ssmt-lite": 0.85, "ssmt-net": 38.2}[model]
    measured = float(np.median(times)) * STAGES["compute"]
    return {
        "name": name,
        "verdict": "yes",
        "model": model,
        "input_size": 224,
        "precision": precision,
        "backend": "onnxruntime 1.23.2",
        "built_for": "A processor avx512_vnni",
        "checkpoint_sha256": sha,
        "outputs": ["nodule"],
        "gmac": macs,
        "gflops": 2 * macs,
        "parameters": 1_234_567 if model == "ssmt-lite" else 134_000_000,
        "size_mib": 1.4 if precision == "int8" else 4.9,
        "throughput_fps": 1e3 / float(times.mean()),
        "end_to_end_ms": summary(times),
        "stages_ms": {stage: summary(times * share) for stage, share in STAGES.items()},
        "warmup": {"frames": 21, "steady": True},
        "latencies_ms": [round(float(value), 4) for value in times],
        "paced": {
            "fps": 30.0, "sent": 300, "recorded": 297, "dropped": 3, "latency_ms": summary(times * 1.2), "threads": 4,
        },
        "batches": [
            {"batch": n, "ms": measured * n**0.9, "interval_ms": [measured * n**0.9 * 0.98, measured * n**0.9 * 1.03],
             "fps": 1e3 * n / (measured * n**0.9)}
            for n in (1, 2, 4, 8)
        ],
        "streams": [
            {"streams": n, "fps_each": 60 / n, "fps_total": 60.0, "latency_ms": summary(times * n)} for n in (1, 2, 4)
        ],
        "cold_start_ms": {"process": 310.0, "open": 95.0, "first_mask": 22.0, "total": 427.0, "runs": 3},
        "memory_mib": {"start": 61.0, "peak": 148.5, "device": None, "method": "VmHWM of a fresh process"},
        "energy": {"joule_per_frame": None, "watt": None, "idle_watt": None,
                   "counter": "not available: /sys/class/powercap holds no RAPL domain"},
        "roofline": {
            "layers": [
                {"name": f"/encoder/stage{i}/Conv", "op": "QLinearConv", "mac": macs * 1e9 / (i + 3),
                 "bytes": 4e6 / (i + 1),
                 "ms": measured / (i + 4), "share": 1 / (i + 4),
                 "gmac_s": macs * 1e3 / (i + 3) / (measured / (i + 4)), "of_ceiling": 0.8 / (i + 1),
                 "bound": "arithmetic" if i % 3 else "bandwidth"}
                for i in range(10)
            ] + [{"name": "everything else", "op": "Resize, QuantizeLinear, Concat", "mac": 0, "bytes": 9e6,
                  "ms": measured / 9, "share": 1 / 9, "gmac_s": None, "of_ceiling": None, "bound": "bandwidth"}],
            "by_op": [{"op": "QLinearConv", "count": 40, "ms": 0.8 * measured, "share": 0.8, "mac": macs * 1e9},
                      {"op": "Resize", "count": 3, "ms": 0.2 * measured, "share": 0.2, "mac": 0}],
            "measured_ms": measured, "floor_ms": measured * 0.43, "of_ceiling": 0.43,
            "method": "ONNX Runtime's profiler, median of 30 inferences",
        },
        "accuracy": {"dice": 0.861, "interval": [0.842, 0.879], "n": 120, "data": "a data set", "split": "val"},
    }  # fmt: skip


def comparison(
    model: str, sha: str, medians: dict[str, float], ours: list[str], seed: int = 0, noise: float = 0.01
) -> dict[str, Any]:
    """The comparison of one checkpoint: medians in ms by contender, `ours` first."""
    random = np.random.default_rng(seed)
    rounds = {name: value * np.exp(noise * random.normal(size=10)) for name, value in medians.items()}
    contenders = [
        {
            "name": name, "ours": name in ours, "how": "this engine" if name in ours else f"plain {name}, FP32",
            "median_ms": float(np.median(values)), "interval_ms": [float(values.min()), float(values.max())],
            "round_medians_ms": values.tolist(), "max_probability_difference": 0.0 if name not in ours else 0.031,
            "mask_agreement": 0.9981, "dice": 0.861 if name in ours else 0.8612, "dice_interval": None,
            "idle_cpu": 0.003,
        }
        for name, values in rounds.items()
    ]  # fmt: skip
    ratios = [
        {"engine": a, "against": b, "ratio": float(np.median(rounds[b] / rounds[a])),
         "interval": np.percentile(rounds[b] / rounds[a], (2.5, 97.5)).tolist()}
        for a in ours for b in rounds if a != b
    ]  # fmt: skip
    return {
        "model": model, "checkpoint_sha256": sha, "engines": ours, "method": "rounds in a fixed order",
        "reference": "reference.onnx in a plain ONNX Runtime session", "reference_sha256": "c" * 64,
        "distinct_frames": 8, "rounds": 10,
        "frames_per_turn": 30, "contenders": contenders,
        "skipped": [{"name": "torch-compile", "why": "no C++ compiler was found"}], "ratios": ratios,
        "cross_check": {"tool": "benchmark_app", "theirs_ms": 7.31, "ours_ms": 7.18, "difference": 0.018, "why": None},
    }  # fmt: skip


def sample(clock: float) -> dict[str, Any]:
    return {"clock_mhz": clock, "temperature_c": 61.0, "throttled": 0, "steal_share": 0.002, "speed": 1.0}


def full_report() -> dict[str, Any]:
    """Two engines of one network and one of another, with every part; changed freely by its caller."""
    lite, net = "a" * 64, "b" * 64
    engines = [
        engine("lite-int8", latencies(1, 6.4), sha=lite),
        engine("lite-fp32", latencies(2, 11.2), precision="fp32", sha=lite),
        engine("net-int8", latencies(3, 131.0, 120), model="ssmt-net", sha=net) | {"verdict": "no"},
    ]
    medians = {"lite-int8": 4.8, "lite-fp32": 8.4, "torch": 21.0, "onnxruntime": 9.1, "openvino": 7.2}
    report: dict[str, Any] = {
        "schema": 2,
        "version": "0.1.0",
        "verdict": "no",
        "asked": {"fps": 30.0, "budget_ms": 200.0},
        "settings": {"source": "cine.mp4", "frames": 400, "threads": 4, "batch": 1, "warmup_rule": "until steady",
                     "count_rule": "a multiplication and an addition are one MAC"},
        "environment": {
            "time": "2026-11-23T12:00:00+00:00", "os": "Debian GNU/Linux 12, Linux 6.1, x86_64", "python": "3.11.2",
            "packages": {"ssmt-edge": "0.1.0", "numpy": "2.3.0", "onnxruntime": "1.23.2", "openvino": "2025.3.0"},
            "cpu": "A processor", "cpu_flags": ["avx2", "fma", "avx512_vnni"], "cores": 4, "logical_cores": 4,
            "cpu_quota": None, "governor": None, "clock_mhz": 2700.0, "memory_gib": 15.6,
            "load_average": [0.2, 0.3, 0.3], "load_average_after": [3.1, 1.2, 0.6], "gpu": [], "power_mode": None,
        },
        "watch": {
            "before": sample(2700.0), "after": sample(2650.0),
            "during": {"clock_mhz": {"min": 2400.0, "median": 2690.0, "max": 2700.0},
                       "temperature_c": {"min": 60.0, "median": 71.0, "max": 78.0}},
            "cautions": ["the hypervisor took 2.1 % of the processor's time"],
        },
        "ceilings": {
            "products": [
                {"threads": 4, "precision": "fp32", "gmac_s": 210.0, "how": "MatMul 1024 in ONNX Runtime"},
                {"threads": 4, "precision": "int8", "gmac_s": 640.0, "how": "MatMulInteger 1024 in ONNX Runtime"},
            ],
            "bandwidth": {"gb_s": 21.0, "how": "4 threads copy 256 MiB"},
        },
        "engines": engines,
        "comparisons": [
            comparison("ssmt-lite", lite, medians, ["lite-int8", "lite-fp32"]),
            comparison("ssmt-net", net, {"net-int8": 98.0, "onnxruntime": 210.0, "openvino": 190.0}, ["net-int8"], 1),
        ],
        "aims": [
            {"model": "ssmt-lite", "aim": "INT8 against the fastest FP32 peer, same graph: at least 2.5 x",
             "engine": "lite-int8", "against": "openvino", "wanted": 2.5, "found": 1.5, "interval": [1.47, 1.53],
             "reached": False, "limit": "3.60 ms where this machine's roof allows 1.55 ms"},
        ],
    }  # fmt: skip
    return deepcopy(report)
