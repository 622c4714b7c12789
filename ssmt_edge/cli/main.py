"""The table of verbs. Handlers import what they need when they run, so that `--help` stays fast."""

from __future__ import annotations

import typer

from ssmt_edge.cli import bench, bench_compare, build, data, demo, doctor, evaluate, experiment, run, simulate, train

app = typer.Typer(
    name="ssmt-edge",
    help="Thyroid ultrasound from labelled images to a verified engine on a live probe. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.add_typer(data.app, name="data")
app.command()(train.train)
app.command()(evaluate.evaluate)
app.add_typer(experiment.app, name="experiment")
app.command()(build.export)
app.command("build-engine")(build.build_engine)
app.command()(build.verify)
app.command()(run.run)
app.command()(simulate.simulate)
app.command()(bench.bench)
app.command("bench-compare")(bench_compare.bench_compare)
app.command()(doctor.doctor)
