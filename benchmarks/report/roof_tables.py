"""Tables of an engine's layers and of what the machine allows."""

from __future__ import annotations

from typing import Any

from benchmarks.report.tables import Table, number, percent

MOST_OPERATORS = 9


def layers(engine: dict[str, Any]) -> Table | None:
    """The slowest layers against the roof."""
    found = engine.get("roofline")
    if not found:
        return None
    rows = [_layer(row) for row in found["layers"]]
    head = ["layer", "operator", "ms", "share", "MMAC", "MB", "GMAC/s", "of the roof", "bound by"]
    return Table("Slowest layers", head, rows, f"Method: {found['method']}.", text=(1, 8))


def _layer(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        " ".join(filter(None, (row["op"], row.get("precision")))),
        number(row["ms"], ".3f"),
        percent(row["share"]),
        number((row["mac"] or 0) / 1e6, ".1f"),
        number(row["bytes"] / 1e6) if row["bytes"] is not None else "",
        number(row["gmac_s"], ".0f") if row["gmac_s"] else "",
        percent(row["of_ceiling"]) if row["of_ceiling"] is not None else "",
        row["bound"] or "",
    ]


def operators(engine: dict[str, Any]) -> Table | None:
    """Time by kind of operator."""
    found = (engine.get("roofline") or {}).get("by_op")
    if not found:
        return None
    rows = [
        [row["op"], str(row["count"]), number(row["ms"], ".3f"), percent(row["share"])]
        for row in found[:MOST_OPERATORS]
    ]
    if rest := found[MOST_OPERATORS:]:
        ms, share = (sum(row[key] for row in rest) for key in ("ms", "share"))
        rows.append([f"{len(rest)} others", str(sum(row["count"] for row in rest)), number(ms, ".3f"), percent(share)])
    return Table("Time by operator", ["operator", "times", "ms", "share"], rows)


def roof_sentence(engine: dict[str, Any]) -> str:
    """The whole network against what the machine allows."""
    found = engine["roofline"]
    if found["floor_ms"] is None:
        return f"{found['measured_ms']:.2f} ms measured; no ceiling of its precision was measured"
    return (
        f"{found['measured_ms']:.2f} ms measured where this machine's arithmetic and memory allow "
        f"{found['floor_ms']:.2f} ms: {percent(found['of_ceiling'])} of the roof"
    )


def ceilings(report: dict[str, Any]) -> Table | None:
    """What the machine reached in the same run."""
    found = report.get("ceilings")
    if not found:
        return None
    rows = _rates("", found) + (_rates("GPU, ", found["gpu"]) if found.get("gpu") else [])
    return Table("What the machine reached in the same run", ["ceiling", "rate", "threads", "how"], rows, text=(3,))


def _rates(where: str, found: dict[str, Any]) -> list[list[str]]:
    rows = [
        [
            f"{where}products, {row['precision'].upper()}",
            f"{row['gmac_s']:.0f} GMAC/s",
            str(row["threads"] or ""),
            row["how"],
        ]
        for row in found["products"]
    ]
    if found.get("bandwidth"):
        rows.append([f"{where}memory", f"{found['bandwidth']['gb_s']:.1f} GB/s", "", found["bandwidth"]["how"]])
    return rows
