"""The bench's report: true to its schema, whole with any part missing, readable by everybody, and compared fairly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Cli
from fakes import write_folder
from graphs import small_engine
from reports import comparison, engine, full_report, latencies

from benchmarks import check_writable, run_bench, write_reports
from benchmarks.change.judge import compare_reports
from benchmarks.change.noise import block_length, of_latencies
from benchmarks.change.text import machine, markdown, worse
from benchmarks.report.files import markdown as report_markdown
from benchmarks.report.html import page
from benchmarks.report.schema import read_report, schema, violations
from benchmarks.report.words import aim, warnings
from benchmarks.timing import turns
from ssmt_edge.errors import DataError, SinkError

OPTIONAL = {
    "paced": ("frames/s asked", None),
    "batches": ("Throughput of bare inference", []),
    "streams": ("Several streams", []),
    "cold_start_ms": ("Cold start", None),
    "energy": ("joule a frame", None),
    "roofline": ("Slowest layers", None),
    "accuracy": ("95 % interval of the mean over images", None),
}


def as_json(report: dict[str, Any]) -> Any:
    return json.loads(json.dumps(report))


class Balanced(HTMLParser):
    """Opening and closing tags in pairs, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def test_a_bench_writes_reports_that_keep_to_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(turns, "WARM_SECONDS", 0.0)
    engines = [small_engine(tmp_path / "one"), small_engine(tmp_path / "two", "int8")]
    source = write_folder(tmp_path / "frames", 5)
    report = run_bench(
        engines, source=str(source), versus=["onnxruntime"], frames=12, rounds=3, threads=1, budget_ms=5000, brief=True
    )
    assert [one["name"] for one in report["engines"]] == ["one", "two"]
    assert all(len(one["latencies_ms"]) == 12 and "decode" in one["stages_ms"] for one in report["engines"])
    (turns_taken,) = report["comparisons"]
    assert [row["name"] for row in turns_taken["contenders"]] == ["one", "two", "onnxruntime"]
    out = tmp_path / "out"
    out.mkdir()
    (out / "overlay.mp4").touch()
    write_reports(report, out)
    assert sorted(path.name for path in out.iterdir()) == ["overlay.mp4", "report.html", "report.json", "report.md"]
    assert read_report(out) == as_json(report)
    html, lines = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert not Balanced(html).open
    assert "**Verdict: yes**" in lines
    assert str(tmp_path) not in html + lines + (out / "report.json").read_text()  # paths tell who the user is
    assert compare_reports(report, report)["verdict"] == "not worse"


def test_reports_need_a_folder_that_can_be_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="--out"):
        check_writable(tmp_path / "file" / "out")
    with pytest.raises(SinkError, match="--out"):
        check_writable(tmp_path / "file")


DAMAGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r.pop("engines"), "lacks 'engines'"),
    (lambda r: r.update(engines=[]), "engines holds 0 values"),
    (lambda r: r["engines"][0].update(latencies_ms=[1.0] * 9 + [0]), r"latencies_ms\[9\] is 0"),
    (lambda r: r["engines"][1]["end_to_end_ms"].update(p50="fast"), r"engines\[1\].end_to_end_ms.p50 is \"fast\""),
    (lambda r: r["engines"][0]["end_to_end_ms"].pop("p99.9"), "lacks 'p99.9'"),
    (lambda r: r["engines"][0].update(verdict="maybe"), "expected one of yes, no, none"),
    (lambda r: r["engines"][0].update(gmac=True), "gmac is true, expected number"),
    (lambda r: r["engines"][0].update(parameters=1.5), "parameters is 1.5, expected integer"),
    (lambda r: r["engines"][0].update(backend=""), "backend is empty"),
    (lambda r: r["engines"][0]["paced"].update(sent=-1), "sent is -1"),
    (lambda r: r["engines"][0].update(paced=[]), r"paced is \[\], expected object"),
    (lambda r: r["comparisons"][0]["contenders"][0].update(dice=1.01), "dice is 1.01"),
    (lambda r: r["comparisons"][0]["contenders"][0].update(interval_ms=[1, 2, 3]), "holds 3 values"),
    (lambda r: r["watch"]["during"].update(clock_mhz={"min": 1}), "lacks 'median'"),
    (lambda r: r["environment"].update(packages={"numpy": 2}), "packages.numpy is 2, expected string"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_report_is_refused_in_one_line(
    damage: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    judge = jsonschema.Draft202012Validator(schema())
    report = as_json(full_report())
    assert judge.is_valid(report)
    assert not list(violations(report, schema()))
    damage(report)
    assert not judge.is_valid(report)  # the schema says so, not our reading of it alone
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    with pytest.raises(DataError, match=message) as caught:
        read_report(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        pytest.param("[" * 100_000, "is not JSON", id="brackets in brackets"),
        ("[]", "is no report of bench, expected schema 2"),
        ('{"schema": 1, "engines": []}', "is a report of schema 1, expected schema 2"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_what_is_no_report_of_this_version_ends_in_one_line(
    text: str | bytes | None, message: str, tmp_path: Path, cli: Cli
) -> None:
    file = tmp_path / "report.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    answer = cli("bench-compare", tmp_path, tmp_path)
    assert answer.code == 1
    assert re.fullmatch(rf"error: .*report\.json {message}.*\n", answer.err)


def test_every_part_of_the_report_is_on_the_page() -> None:
    report = full_report()
    report["engines"][0]["name"] = "<b>&'\""  # a folder may be called anything
    html = page(report)
    read = Balanced(html)
    assert not read.open
    words = " ".join(read.words)
    for expected in (
        "<b>&'\"",
        "No, it does not keep up",
        "the hypervisor took 2.1 %",
        "torch-compile left out: no C++",
        "benchmark_app takes 7.31 ms",
        "no contender used more than 0.3 % of a core",
        "missed",
        "Research use only",
        "43 % of the roof",
        "/sys/class/powercap holds no RAPL domain",
        *(text for text, _ in OPTIONAL.values()),
    ):
        assert expected in words, expected
    assert html.index("No, it does not keep up") < html.index("Read with caution") < html.index("p50 end to end")
    # one file that asks for nothing and runs nothing
    assert not re.search(r"https?://|<script|<link|<img|<iframe|@import|url\(|\son\w+=", html)
    assert "NaN" not in html
    lines = report_markdown(report)
    for table in re.split(r"\n\n", lines):
        if table.startswith("|"):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, table


@pytest.mark.parametrize("key", OPTIONAL)
def test_a_part_that_was_not_measured_leaves_no_trace(key: str) -> None:
    report = full_report()
    for one in report["engines"]:
        one[key] = deepcopy(OPTIONAL[key][1])
    assert not list(violations(as_json(report), schema()))
    html = page(report)
    assert not Balanced(html).open
    assert OPTIONAL[key][0] not in html
    assert OPTIONAL[key][0] not in report_markdown(report)


def test_the_least_report_is_whole() -> None:
    report = full_report()
    report |= {"ceilings": None, "comparisons": [], "engines": report["engines"][:1], "verdict": "none"}
    report["asked"] = {"fps": None, "budget_ms": None}
    report["engines"][0].update({key: deepcopy(empty) for key, (_, empty) in OPTIONAL.items()}, verdict="none")
    report["engines"][0]["memory_mib"] |= {"start": None, "peak": None}
    del report["aims"]
    assert not list(violations(as_json(report), schema()))
    html = page(report)
    assert not Balanced(html).open
    assert "Against others" not in html
    assert "Measured" in html
    assert "not available" in report_markdown(report) + html


def test_a_comparison_that_nobody_survived_is_told() -> None:
    report = full_report()
    for left in (1, 0):
        report["comparisons"][0] |= {"contenders": report["comparisons"][0]["contenders"][:left], "ratios": []}
        html = page(report)
        assert not Balanced(html).open
        assert "torch-compile left out: no C++" in html and "torch-compile left out: no C++" in report_markdown(report)


def test_intervals_of_few_rounds_are_cautioned_against() -> None:
    report = full_report()
    assert not [text for text in warnings(report) if "rounds" in text]
    report["comparisons"][1]["rounds"] = 5  # all on one side of the true median in 1 of 16 runs
    assert [text for text in warnings(report) if text.startswith("ssmt-net: intervals from 5 rounds are too narrow")]


def test_an_aim_that_noise_may_have_decided_says_so() -> None:
    (row,) = full_report()["aims"]
    assert aim(row).startswith("ssmt-lite: INT8 against")
    assert "missed, lite-int8 against openvino 1.50 (1.47 to 1.53); 3.60 ms" in aim(row)
    assert "openvino 1.50 (1.40 to 2.60, which holds 2.5); 3.60 ms" in aim(row | {"interval": [1.4, 2.6]})


def test_figures_are_kept_whatever_becomes_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(report: dict[str, Any]) -> str:
        raise RuntimeError("a bug")

    monkeypatch.setattr("benchmarks.report.files.page", broken)
    with pytest.raises(RuntimeError):
        write_reports(full_report(), tmp_path)
    assert read_report(tmp_path) == as_json(full_report())


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
def test_text_stands_out_from_its_ground(mode: str) -> None:
    style = (Path(page.__code__.co_filename).parent / "report.css").read_text(encoding="utf-8")
    start = {"light": 0, "dark": style.index("prefers-color-scheme: dark"), "print": style.index("@media print")}[mode]
    block = style[start : style.index("}", style.index(":root", start))]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", block))
    colours = {
        name: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:]) for name, value in colours.items()
    }
    on_cards = [(ink, ground) for ink in ("ink", "soft", "accent", "yes", "no", "warm") for ground in ("card", "page")]
    on_bars = [("on-light", stage) for stage in ("decode", "preprocess", "up", "down", "host")]
    on_bars += [("on-dark", "compute"), ("on-dark", "postprocess")]
    for ink, ground in (*on_cards, *on_bars, ("ink", "caution"), ("warm", "caution")):
        dark, light = sorted(luminance(colours[name]) for name in (ink, ground))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {ground}: {colours[ink]} on {colours[ground]}"


def two_reports(
    seed: int, slower: float = 1.0, peers: float = 1.0, **noise: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One engine and two peers, measured twice; `slower` and `peers`: how much longer they take the second time."""
    found = []
    for run, (ours, theirs) in enumerate(((1.0, 1.0), (slower, peers))):
        report = full_report()
        times = latencies(100 * seed + run, 6.4 * ours, **noise)  # type: ignore[arg-type]
        medians = {"one": 4.8 * ours, "openvino": 7.2 * theirs, "onnxruntime": 9.1 * theirs}
        turns = comparison("ssmt-lite", "a" * 64, medians, ["one"], seed=100 * seed + run + 50)
        report |= {"engines": [engine("one", times)], "comparisons": [turns]}
        found.append(report)
    return found[0], found[1]


def verdicts(change: dict[str, Any]) -> dict[str, str]:
    (one,) = change["engines"]
    return {row["figure"]: row["verdict"] for row in one["figures"]}


def test_the_same_measured_twice_raises_no_alarm_and_a_shift_is_found() -> None:
    alarms = sum(compare_reports(*two_reports(seed), tolerance=0.0)["verdict"] == "worse" for seed in range(100))
    assert alarms <= 5
    found = [verdicts(compare_reports(*two_reports(seed, 1.1))) for seed in range(10)]
    for figure in ("median", "throughput", "times as fast as openvino", "times as fast as onnxruntime"):
        assert [row[figure] for row in found].count("worse") >= 9, figure
    faster = verdicts(compare_reports(*two_reports(3, 0.9)))
    assert faster["median"] == faster["throughput"] == "better"


def test_latencies_of_few_frames_are_not_judged() -> None:
    old, new = two_reports(1, 2.0)
    new["engines"][0]["latencies_ms"] = new["engines"][0]["latencies_ms"][:99]
    found = verdicts(compare_reports(old, new))
    assert {found[name] for name in ("median", "p99", "throughput")} == {"not judged"}
    assert found["times as fast as openvino"] == "worse"


def test_small_losses_are_told_and_tolerated() -> None:
    change = compare_reports(*two_reports(1, 1.03, spread=0.005, correlation=0.0))
    assert verdicts(change)["median"] == "tolerated"
    assert change["verdict"] == "not worse"
    assert compare_reports(*two_reports(1, 1.03, spread=0.005, correlation=0.0), tolerance=0.02)["verdict"] == "worse"


def test_a_machine_that_changed_is_no_fault_of_the_engine() -> None:
    change = compare_reports(*two_reports(2, slower=1.2, peers=1.2))
    assert change["machine"]["changed"]
    assert change["machine"]["change"] == pytest.approx(0.2, abs=0.03)
    assert "the machine changed" in machine(change)
    assert verdicts(change)["median"] == verdicts(change)["throughput"] == "machine"
    assert change["verdict"] == "not worse"
    # the machine became faster, the engine did not: it lost what the others gained
    assert compare_reports(*two_reports(2, slower=1.0, peers=0.8))["verdict"] == "worse"
    # peers of another version tell nothing of the machine
    old, new = two_reports(2, slower=1.2, peers=1.2)
    new["environment"]["packages"] |= {"openvino": "2026.0.0", "onnxruntime": "1.24.0"}
    change = compare_reports(old, new)
    assert change["machine"] is None
    assert verdicts(change)["median"] == "worse"
    assert verdicts(change)["times as fast as openvino"] == "not judged"
    assert any("onnxruntime 1.23.2, now 1.24.0" in text for text in change["cautions"])


def test_a_peer_that_runs_what_may_have_changed_tells_nothing_of_the_machine() -> None:
    # an export that makes the FP32 graph slower slows down the peers that run it
    old, new = two_reports(2, slower=1.2, peers=1.2)
    new["comparisons"][0]["reference_sha256"] = "d" * 64
    change = compare_reports(old, new)
    assert change["machine"] is None and change["verdict"] == "worse"
    assert verdicts(change)["times as fast as openvino"] == "not judged"
    # peers given the network as trained are beyond the reach of the export, `:same` runs the engine's own file
    for report in (old, new):
        for row, given in zip(report["comparisons"][0]["contenders"][1:], ("plain", "same"), strict=True):
            row["name"] += f":{given}"
    change = compare_reports(old, new)
    assert change["machine"]["peers"] == ["openvino:plain on ssmt-lite"]
    found = verdicts(change)
    assert (found["median"], found["times as fast as onnxruntime:same"]) == ("machine", "not judged")
    # nor does anybody who has other threads
    new["settings"]["threads"] = 1
    assert compare_reports(old, new)["machine"] is None


def test_figures_of_one_value_a_run_have_rules_of_their_own() -> None:
    old, new = two_reports(4)
    new["engines"][0]["memory_mib"]["peak"] *= 1.06
    new["engines"][0]["accuracy"]["dice"] -= 0.006
    new["engines"][0]["cold_start_ms"]["total"] *= 1.5
    found = verdicts(compare_reports(old, new))
    assert (found["peak memory"], found["Dice"], found["cold start"]) == ("worse", "worse", "not judged")
    for report, runs in ((old, [420.0, 427.0, 470.0]), (new, [600.0, 640.5, 660.0])):
        report["engines"][0]["cold_start_ms"]["totals"] = runs
    assert verdicts(compare_reports(old, new))["cold start"] == "worse"
    new["engines"][0]["cold_start_ms"] |= {"total": 460.0, "totals": [440.0, 460.0, 480.0]}
    assert verdicts(compare_reports(old, new))["cold start"] == "noise"
    new["engines"][0]["accuracy"]["split"] = "test"
    assert verdicts(compare_reports(old, new))["Dice"] == "not judged"


def test_blocks_are_as_long_as_neighbours_are_alike() -> None:
    short, long = (block_length(np.log(latencies(5, 6.4, 1000, correlation=c))) for c in (0.0, 0.9))
    assert short <= 15 < long
    errors = [of_latencies(latencies(5, 6.4, 1000, correlation=c))["p50"].error for c in (0.0, 0.9)]
    assert errors[1] > 2 * errors[0]
    assert of_latencies(np.full(50, 3.0))["p99"].error < 1e-12


def test_reports_of_other_conditions_are_compared_with_cautions_first(tmp_path: Path, cli: Cli) -> None:
    old, new = two_reports(6)
    new["environment"]["cpu"] = "another processor"
    new["settings"] |= {"threads": 1, "source": "another.mp4", "frames": 30}
    new["engines"][0]["name"] = "renamed"
    new["comparisons"] = []
    new["engines"].append(engine("further", latencies(9, 3.0), precision="fp32"))
    change = compare_reports(old, new)
    assert change["engines"][0]["name"] == "renamed"
    assert change["engines"][0]["old_name"] == "one"
    assert (change["only_old"], change["only_new"]) == ([], ["further"])
    text = markdown(change)
    for caution in (
        "processor A processor, now another processor",
        "threads 4, now 1",
        "source cine.mp4, now another.mp4",
        "frames 400, now 30",
    ):
        assert text.index(caution) < text.index("## renamed")
    assert "only in the new report: further" in text
    assert "no peer did the same work in both" in text


def test_the_verb_ends_with_3_when_something_got_worse(tmp_path: Path, cli: Cli) -> None:
    old, new = two_reports(7, 1.2)
    for name, report in (("old", old), ("new", new)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))
    answer = cli("bench-compare", tmp_path / "old", tmp_path / "new", "--json", "--out", tmp_path / "change.md")
    assert answer.code == 3
    assert json.loads(answer.out) == as_json(compare_reports(old, new))
    assert re.fullmatch(r"error: worse beyond noise and 5 %: one: median [^\n]+\n", answer.err)
    assert worse(compare_reports(old, new)) in (tmp_path / "change.md").read_text()
    assert cli("bench-compare", tmp_path / "old", tmp_path / "new" / "report.json", "--tolerance", 50).code == 0
    answer = cli("bench-compare", tmp_path / "new", tmp_path / "old")
    assert answer.code == 0
    assert "better" in answer.out
    answer = cli("bench-compare", tmp_path / "new", tmp_path / "old", "--out", tmp_path)
    assert answer.code == 1
    assert re.fullmatch(r"error: --out [^\n]+\n", answer.err)
    assert cli("bench-compare", tmp_path / "new", tmp_path / "old", "--tolerance", "nan").code == 2
    new["engines"].append(engine("further", latencies(9, 3.0), precision="fp32"))
    (tmp_path / "new" / "report.json").write_text(json.dumps(new))
    assert "only in the new report: further\n" in cli("bench-compare", tmp_path / "old", tmp_path / "new").err
    # an engine that was renamed and changed must not pass unseen
    del new["engines"][0]
    (tmp_path / "new" / "report.json").write_text(json.dumps(new))
    answer = cli("bench-compare", tmp_path / "old", tmp_path / "new")
    assert answer.code == 1
    assert re.fullmatch(r"error: the reports have no engine in common: [^\n]* one, [^\n]* further; .*\n", answer.err)
