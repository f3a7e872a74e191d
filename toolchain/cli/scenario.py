"""Commands for the scenario: demo, sweep, smallest, report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import shown
from toolchain.cli.options import (
    CODING,
    INPUT,
    OUTPUT,
    AddressOption,
    EngineOption,
    JsonOption,
    LimitOption,
    ModelOption,
    ReplaceOption,
    SkipBadOption,
    SplitsOption,
    ThreadsOption,
    WeightsOption,
    WorkersOption,
    complain,
    console,
    open_workers,
    settings_of,
    write_figures,
)
from toolchain.cli.outputs import digests_of_paths, output_folder, record_inputs

if TYPE_CHECKING:
    from toolchain.scenario.points import Curve

KNOWN = "ectcq, uniform, palette, lowrank or prune"
CodecOption = Annotated[str, typer.Option("--codec", help=f"Codec to search: {KNOWN}.", rich_help_panel=CODING)]
CodecsOption = Annotated[
    list[str] | None, typer.Option("--codec", help=f"Codec to sweep: {KNOWN}. Repeat for several.", rich_help_panel=CODING)
]
FixedOption = Annotated[
    list[str] | None, typer.Option("--set", help="Fixed codec parameter, NAME=VALUE. Repeat for several.", rich_help_panel=CODING)
]
CalibratedOption = Annotated[bool, typer.Option("--calibrated", help="Calibrate the codec on dev-clean of --data.", rich_help_panel=CODING)]
ResultsOption = Annotated[
    Path, typer.Option("-o", "--output", help="Output folder. An interrupted run resumes there.", rich_help_panel=OUTPUT)
]


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Output folder.", rich_help_panel=OUTPUT)] = Path("results/demo"),
    limit: LimitOption = None,
    worker_count: WorkersOption = None,
    json_file: JsonOption = None,
) -> None:
    """Evaluate the bundled test case in 14 test configurations and plot the curve. Example: asrdeploy demo"""
    from toolchain.accuracy.progress import ConfigurationBars
    from toolchain.data.datasets import open_data
    from toolchain.reports import tables
    from toolchain.reports.plots import plot_curve
    from toolchain.scenario.demo import CONFIGURATIONS, run_demo

    data = open_data("digits", "test-clean")
    if limit is not None:
        data = data.limited(limit)
    with ConfigurationBars(len(CONFIGURATIONS) + 1) as watcher, open_workers("local", None, worker_count, 1) as workers:
        curve = run_demo(data, output, workers=workers, watcher=watcher, draw=plot_curve)
    console.print(tables.curve(curve))
    if not curve.complete:
        complain(f"Only {len(curve.in_range)} points lie in the WER range; a complete test case has five.")
    console.print(f"points.csv, points.json and curve.png are in {output}.")
    write_figures(json_file, curve)


def sweep(
    output: ResultsOption,
    codec: CodecsOption = None,
    model: ModelOption = "DIGITS_ASR_TINY",
    config: Annotated[
        Path | None, typer.Option(help="TOML file that describes the sweeps. Replaces the other options; see docs/codecs.md.")
    ] = None,
    settings: FixedOption = None,
    calibrated: CalibratedOption = False,
    data: SplitsOption = "digits",
    limit: LimitOption = None,
    skip_bad: SkipBadOption = False,
    weights: WeightsOption = None,
    threads: ThreadsOption = 1,
    worker_count: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    replace: ReplaceOption = False,
    json_file: JsonOption = None,
) -> None:
    """Search codec rates until five points of each codec lie in the WER range.

    Example: asrdeploy sweep --codec uniform --limit 20 -o results/uniform
    """
    from toolchain.accuracy.progress import ConfigurationBars
    from toolchain.reports import tables
    from toolchain.reports.plots import plot_curve
    from toolchain.reports.savings import reservations
    from toolchain.scenario.sweep_file import read_sweep_file
    from toolchain.scenario.sweeps import describe_sweeps, expected_configurations
    from toolchain.scenario.sweeps import sweep as run_sweeps

    if (config is None) == (not codec):
        raise AsrDeployError("Give either --codec, once or several times, or --config with a sweep file.")
    if config is not None:
        described = read_sweep_file(config)
    else:
        fixed = settings_of(settings)
        described = describe_sweeps(
            codec or [],
            model=model,
            parameters=fixed,
            calibrated=calibrated,
            data=data,
            limit=limit,
            skip_bad=skip_bad,
            weights=weights,
            threads=threads,
        )
    with (
        open_workers(engine, address, worker_count, described.threads) as workers,
        ConfigurationBars(expected_configurations(described)) as watcher,
    ):
        curve = run_sweeps(described, output, replace=replace, workers=workers, watcher=watcher, draw=plot_curve)
    console.print(tables.curve(curve))
    for sentence in reservations(curve):
        complain(sentence)
    console.print(f"points.csv, points.json and curve.png are in {output}. `asrdeploy report` compares such folders.")
    write_figures(json_file, curve)


def smallest(
    codec: CodecOption,
    output: ResultsOption,
    wer_budget: Annotated[
        float, typer.Option(help="Allowed WER above the anchor's, in points, at the upper end of the interval.", rich_help_panel=CODING)
    ],
    model: ModelOption = "DIGITS_ASR_TINY",
    settings: FixedOption = None,
    calibrated: CalibratedOption = False,
    data: SplitsOption = "digits",
    limit: LimitOption = None,
    skip_bad: SkipBadOption = False,
    weights: WeightsOption = None,
    threads: ThreadsOption = 1,
    worker_count: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    replace: ReplaceOption = False,
    json_file: JsonOption = None,
) -> None:
    """Find the smallest bitstream within a WER budget.

    Example: asrdeploy smallest --wer-budget 1.5 --codec uniform --limit 20 -o results/small
    """
    from toolchain.accuracy.progress import ConfigurationBars
    from toolchain.reports import tables
    from toolchain.reports.plots import plot_curve
    from toolchain.scenario.sweeps import describe_sweeps, expected_configurations, find_smallest

    if not 0 <= wer_budget <= 100:
        raise AsrDeployError(f"--wer-budget {wer_budget:g} is out of range. Use 0 to 100 points.")
    fixed = settings_of(settings)
    described = describe_sweeps(
        codec,
        model=model,
        parameters=fixed,
        calibrated=calibrated,
        data=data,
        limit=limit,
        skip_bad=skip_bad,
        weights=weights,
        threads=threads,
    )
    with (
        open_workers(engine, address, worker_count, threads) as workers,
        ConfigurationBars(expected_configurations(described)) as watcher,
    ):
        found = find_smallest(described, output, wer_budget / 100, replace=replace, workers=workers, watcher=watcher, draw=plot_curve)
    console.print(tables.smallest(found))
    console.print(f"The bitstream is {found.folder / 'model.asrb'}.")
    write_figures(json_file, found)


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of sweeps and demos of the same test case.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output folder (default: `results/report`).", rich_help_panel=OUTPUT)
    ] = None,
    replace: ReplaceOption = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="Recordings for the page: `digits`, `librispeech`, or a folder (default: the data set of the curves).",
            rich_help_panel=INPUT,
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Compare methods: plot their curves and compute the bits saved at equal WER.

    Example: asrdeploy report results/uniform
    """
    from toolchain.reports import tables
    from toolchain.reports.page import write_report
    from toolchain.reports.savings import merged, reservations
    from toolchain.scenario.points import read_curve

    curves: dict[Path, Curve] = {}
    for each in folders:
        try:
            curves[each] = read_curve(each)
        except AsrDeployError as error:  # the others can still be compared
            complain(str(error))
    if not curves:
        sys.exit(2)
    curve = merged(list(curves.values()), names=list(map(shown, curves)))
    sources = digests_of_paths(curves)
    folder = output_folder(output, Path("results/report"), sources, replace=replace)
    record_inputs(folder, sources)
    with console.status("comparing"):
        written = write_report(curve, folder, data)
    console.print(tables.curve(curve))
    if written.savings:  # a single method has nothing to be compared with
        console.print(tables.savings(written.savings))
    console.print(tables.distances(written.comparisons))
    for sentence in [*reservations(curve), *written.missing]:
        complain(sentence)
    names = ", ".join(sorted(path.name for path in written.files))
    console.print(f"{names} are in {folder}. Open report.html for all of it.")
    write_figures(json_file, {"curve": curve, "savings": written.savings, "comparisons": written.comparisons})
    if len(curves) < len(set(folders)):
        sys.exit(2)


COMMANDS = (demo, sweep, smallest, report)
