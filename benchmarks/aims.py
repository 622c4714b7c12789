"""What the project aims at on a CPU, and whether a report reaches it; a missed aim names what the time goes to."""

from __future__ import annotations

from typing import Any

PEERS = ("torch", "torch-compile", "onnxruntime", "openvino")
ON_CPU = ("onnxruntime", "openvino")
VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}
INT8_AIM, INT8_AIM_AVX2 = 2.5, 1.6
"""INT8 against the fastest FP32 peer, with and without VNNI, whose one instruction replaces three of AVX2"""
FP32_AIM = 1.1
"""FP32 against the fastest peer that is given the network as trained: a folded stem and pruned tasks"""
DICE_DROP = 0.005
START_MS = 1500.0
SLOWEST = 3


def aims(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The aims that this report can tell of, in a fixed order; empty when it compares with no peer on the CPU.

    Every one holds `model`, `aim` (a sentence, which names the peers that took part), `engine` and `against` (names;
    `against` None for a limit), `wanted`, `found`, `interval` (95 %, or None), `reached`, and `limit`: for a missed one
    what bounds the engine by its own layers, else None. Of several engines of a precision the fastest stands for the
    project, as with `--backend auto`.
    """
    flags = set(report["environment"]["cpu_flags"])
    engines = {engine["name"]: engine for engine in report["engines"]}
    found: list[dict[str, Any]] = []
    for comparison in report["comparisons"]:
        all_of_them = [engines[name] for name in comparison["engines"]]
        if any(engine["backend"].partition(" ")[0] not in ON_CPU for engine in all_of_them):
            continue  # PyTorch then runs on the GPU, in half precision: no peer of these aims
        medians = {row["name"]: row["median_ms"] for row in comparison["contenders"]}
        ours = [engine for engine in all_of_them if engine["name"] in medians]
        int8 = _fastest([engine["name"] for engine in ours if engine["precision"] == "int8"], medians)
        fp32 = _fastest([engine["name"] for engine in ours if engine["precision"] == "fp32"], medians)
        peers = [name for name in PEERS if name in medians]
        plain = [name for name in (f"{peer}:plain" for peer in PEERS) if name in medians]
        same = [name for name in medians if name.endswith(":same")]
        wanted = INT8_AIM if flags & VNNI else INT8_AIM_AVX2
        asked = (
            (int8, peers, wanted, f"INT8 against the fastest FP32 peer, same graph: at least {wanted:g} x"),
            (int8, same, 1.0, "INT8 against the same file run plainly: not slower beyond noise"),
            (fp32, plain, FP32_AIM, f"FP32 against the fastest peer, network as trained: at least {FP32_AIM:g} x"),
        )
        for engine, against, least, aim in asked:
            if engine and against:
                aim += f" (of {', '.join(against)})"
                found.append(_ratio(comparison, engines[engine], against, least, aim))
        found += _limits(comparison["model"], engines.get(int8 or ""), engines.get(fp32 or ""))
    return found


def _fastest(names: list[str], medians: dict[str, float]) -> str | None:
    return min(names, key=medians.__getitem__, default=None)


def _ratio(
    comparison: dict[str, Any], engine: dict[str, Any], peers: list[str], wanted: float, aim: str
) -> dict[str, Any]:
    """The smallest ratio to any of the peers: of two that are about as fast, the median alone could pick the kinder."""
    rows = [row for row in comparison["ratios"] if row["engine"] == engine["name"] and row["against"] in peers]
    row = min(rows, key=lambda row: float(row["ratio"]))
    against = row["against"]
    # of the same computation one comes out faster by chance: only what is slower beyond noise is slower
    reached = row["interval"][1] >= wanted if against.endswith(":same") else row["ratio"] >= wanted
    return {
        "model": comparison["model"],
        "aim": aim,
        "engine": engine["name"],
        "against": against,
        "wanted": wanted,
        "found": row["ratio"],
        "interval": row["interval"],
        "reached": reached,
        "limit": None if reached else limit(engine),
    }


def _limits(model: str, int8: dict[str, Any] | None, fp32: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Aims that are no ratio: the cost in Dice, and the start."""
    rows: list[dict[str, Any]] = []

    def add(aim: str, engine: str, against: str | None, wanted: float, found: float) -> None:
        rows.append(
            {"model": model, "aim": aim, "engine": engine, "against": against, "wanted": wanted, "found": found,
             "interval": None, "reached": found <= wanted, "limit": None}
        )  # fmt: skip

    if int8 and fp32 and int8["accuracy"] and fp32["accuracy"]:
        drop = fp32["accuracy"]["dice"] - int8["accuracy"]["dice"]
        add(f"INT8 loses at most {DICE_DROP:g} Dice", int8["name"], fp32["name"], DICE_DROP, drop)
    if int8 and int8["cold_start_ms"] and model == "ssmt-lite":
        start = int8["cold_start_ms"]
        add(
            f"an engine opened and its first mask within {START_MS:.0f} ms", int8["name"], None, START_MS,
            start["open"] + start["first_mask"],
        )  # fmt: skip
    return rows


def limit(engine: dict[str, Any]) -> str | None:
    """What bounds an engine, by its roofline: the floor that the machine allows and where the time goes; None without
    one."""
    roof = engine["roofline"]
    if roof is None:
        return None
    kinds = ", ".join(
        f"{row['op']} {100 * row['share']:.0f} %"
        + (f" at {row['mac'] / row['ms'] / 1e6:.0f} GMAC/s" if row["mac"] and row["ms"] else "")
        for row in roof["by_op"][:SLOWEST]
    )
    rows = [row for row in roof["layers"] if row["name"] != "everything else"]
    slow = ", ".join(
        f"{row['name']} ({row['op']}) {100 * row['share']:.0f} %"
        + (f" at {100 * row['of_ceiling']:.0f} % of the roof" if row["of_ceiling"] is not None else "")
        for row in rows[:SLOWEST]
    )
    floor = "" if roof["floor_ms"] is None else f" where this machine's roof allows {roof['floor_ms']:.2f} ms"
    return f"{roof['measured_ms']:.2f} ms{floor}; time goes to {kinds}; slowest layers: {slow}"
