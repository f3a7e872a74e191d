"""Sweeps and reports: five points found automatically, no step done twice, and the bits saved by a method."""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from device_runner import drawing
from device_runner.errors import AsrDeployError
from device_runner.transcripts import Timing, Transcript
from tests.helpers import Completed, complaint
from toolchain.data.datasets import open_data
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.loading import load_model
from toolchain.reports import plots, tables
from toolchain.reports.savings import merged, reservations, savings
from toolchain.scenario.points import Curve, Point, pareto, read_curve, write_curve
from toolchain.scenario.rates import RATES
from toolchain.scenario.sweep import Sweep, run_all


class Watcher:
    """Records the steps of a sweep, and stops it at a given step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps: list[str] = []
        self.utterances = 0
        self.stop_after = stop_after

    def configuration(self, name: str, step: str, utterances: int) -> Callable[[Transcript, Timing], None]:
        self.steps.append(f"{name} {step}")
        return self.count

    def count(self, transcript: Transcript, timing: Timing) -> None:
        self.utterances += 1
        if self.utterances == self.stop_after:
            raise KeyboardInterrupt


def small_sweep(tiny: AnchorModel, folder: Path, watcher: Watcher, codec: str = "uniform", **fixed: str) -> Curve:
    dev, test = (open_data("digits", split).limited(20) for split in ("dev-clean", "test-clean"))
    return Sweep(tiny, codec, fixed, None, dev, test, folder, 1, watcher, draw=plots.plot_curve).run()


def point(method: str, bits: int, wer: float) -> Point:
    return Point(
        configuration=f"{method}-{bits}",
        size_bits=bits,
        c_size=bits / 1000,
        wer=wer,
        wer_low=wer,
        wer_high=wer,
        in_range=0.02 <= wer <= 0.07,
        bits_per_parameter=1.0,
        artifact_bytes=None,
        real_time_factor=0.1,
        sent="bitstream",
        method=method,
        above_anchor=wer - 0.02,
        relative=(wer - 0.02) / 0.02,
        evaluation=Path("points") / f"{method}-{bits}" / "test-clean",
    )


def curve(*points: Point, anchor: float = 0.02) -> Curve:
    return Curve(
        test_case="T",
        data="d",
        split="test-clean",
        anchor_size_bits=1000,
        anchor_wer=anchor,
        anchor_wer_interval=(anchor, anchor),
        anchor_evaluation=Path("points/anchor/test-clean"),
        wer_range=0.05,
        points=points,
        machine={},
    )


def test_a_stopped_sweep_goes_on_and_does_nothing_twice(tiny: AnchorModel, tmp_path: Path) -> None:
    whole = small_sweep(tiny, tmp_path / "whole", Watcher())
    with pytest.raises(KeyboardInterrupt):
        small_sweep(tiny, tmp_path / "stopped", Watcher(stop_after=70))
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").rglob("*.asrb")}
    again = Watcher()
    assert left and small_sweep(tiny, tmp_path / "stopped", again).points != ()
    assert {path: path.stat().st_mtime_ns for path in left} == left

    def facts(found: Curve) -> list[tuple[str, int, float]]:
        return [(each.configuration, each.size_bits, each.wer) for each in found.points]

    assert facts(read_curve(tmp_path / "stopped")) == facts(whole)
    third = Watcher()
    small_sweep(tiny, tmp_path / "stopped", third)
    assert not any("compressing" in step for step in third.steps)
    assert (tmp_path / "stopped" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_search_is_on_dev_clean_alone(tiny: AnchorModel, tmp_path: Path) -> None:
    watcher = Watcher()
    found = small_sweep(tiny, tmp_path, watcher)
    tested = {step.split()[0] for step in watcher.steps if step.endswith("test-clean")} - {"anchor"}
    assert tested == {each.configuration for each in found.points}
    searched = [step for step in watcher.steps if step.endswith("dev-clean")]
    first_test = next(number for number, step in enumerate(watcher.steps) if step.endswith("test-clean"))
    assert searched and all(watcher.steps.index(step) < first_test for step in searched)
    assert (tmp_path / "search.png").stat().st_mtime_ns < (tmp_path / "curve.png").stat().st_mtime_ns


@pytest.mark.parametrize(
    ("codec", "fixed", "words"),
    [
        ("ectqc", {}, r"Did you mean ectcq\?"),
        ("uniform", {"bits": "3"}, "the sweep varies this parameter"),
        ("uniform", {"scope": "everything"}, "takes the scope tensor, channel or group"),
        ("ectcq", {"states": "5"}, "8, 16, 32 or 64"),
    ],
)
def test_what_cannot_be_swept(codec: str, fixed: dict[str, str], words: str, tiny: AnchorModel, tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match=words):
        small_sweep(tiny, tmp_path, Watcher(), codec, **fixed)


def test_random_weights_and_foreign_folders_are_refused(tiny: AnchorModel, tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="random weights"):
        small_sweep(load_model("0", "random"), tmp_path / "a", Watcher())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work")
    with pytest.raises(AsrDeployError, match=r"is not the folder of a sweep\. Choose another folder"):
        small_sweep(tiny, tmp_path / "b", Watcher())


@given(lowest=st.floats(0.05, 60), name=st.sampled_from(sorted(RATES)), more=st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_rates_are_new_and_the_codecs(lowest: float, name: str, more: int) -> None:
    sweep = object.__new__(Sweep)  # the choice of rates needs neither anchor nor data
    object.__setattr__(sweep, "codec", name)
    rate = RATES[name]
    tried = sweep._first_rates(rate.rounded(min(max(lowest, rate.low), rate.high)))
    for _ in range(more):
        new = sweep._another_rate(tried)
        if new is None:
            assert rate.whole
            break
        assert new not in tried
        tried.append(new)
    assert all(rate.low - 1e-3 <= each <= rate.high + 1e-3 for each in tried) and len(set(tried)) == len(tried)
    assert not rate.whole or all(each == int(each) for each in tried)


def test_the_smallest_within_a_budget(tiny: AnchorModel, tmp_path: Path) -> None:
    dev, test = (open_data("digits", split).limited(40) for split in ("dev-clean", "test-clean"))
    sweep = Sweep(tiny, "uniform", {}, None, dev, test, tmp_path, 1, Watcher())
    found = sweep.smallest(0.03)
    assert found.loss[0] <= found.evaluation.wer - found.anchor_wer <= found.loss[1] <= 0.03
    assert found.evaluation.size_bits == 8 * (found.folder / "model.asrb").stat().st_size
    bits = int(found.configuration.removeprefix("uniform-"))
    if bits > 2:  # one bit fewer exceeds the budget on a split
        assert max(sweep._loss(bits - 1, data)[1] for data in (dev, test)) > 0.03
    with pytest.raises(AsrDeployError, match=r"stays within -5 points"):
        sweep.smallest(-0.05)


def test_several_methods_share_a_folder_and_an_anchor(tiny: AnchorModel, tmp_path: Path) -> None:
    dev, test = (open_data("digits", split).limited(10) for split in ("dev-clean", "test-clean"))
    watcher = Watcher()
    sweeps = [
        Sweep(tiny, codec, {}, None, dev, test, tmp_path, 1, watcher, values=values)
        for codec, values in (("uniform", (4.0, 3.0)), ("prune", (0.4, 0.2)))
    ]
    found = run_all(sweeps)
    assert [each.configuration for each in found.points] == ["uniform-3", "uniform-4", "prune-0.4", "prune-0.2"]  # sorted by rate
    assert [each.size_bits for each in found.points[2:]] == sorted(each.size_bits for each in found.points[2:])
    assert read_curve(tmp_path).points[0].evaluation.joinpath("transcripts.jsonl").is_file()
    assert watcher.steps.count("anchor transcribing test-clean") == 2 and not any("dev-clean" in step for step in watcher.steps)
    with pytest.raises(AsrDeployError, match="uniform is swept twice"):
        run_all([sweeps[0], sweeps[0]])


def test_sweeps_from_a_file(cli: Callable[..., Completed], tmp_path: Path) -> None:
    (tmp_path / "sweeps.toml").write_text(
        """testcase = 0
limit = 4
[[method]]
codec = "ectcq"
set = { states = 8 }
rates = [2.5]
[[method]]
codec = "uniform"
calibrate = true
set = { symmetric = true }
rates = [4]
"""
    )
    done = cli("sweep", "--config", "sweeps.toml", "-o", "out")
    assert done.returncode == 0, done.stderr
    found = read_curve(tmp_path / "out")
    assert [each.method for each in found.points] == ["ectcq, states=8", "uniform, symmetric=True, calibrated"]
    for each in found.points:
        assert each.above_anchor == pytest.approx(each.wer - found.anchor_wer)
        assert f"{100 * each.above_anchor:+.2f}" in done.stdout
    assert "has 1 points in the WER range" in done.stderr or "has 0 points" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method = [", "is not TOML"),
        ("", "method: Field required"),
        ("[[method]]\ncodec = 'uniform'\nspeed = 3", "method.0.speed"),
        ("limit = 0\n[[method]]\ncodec = 'uniform'", "limit: Input should be greater than 0"),
        ("[[method]]\ncodec = 'unifrom'", "Did you mean uniform?"),
        ("[[method]]\ncodec = 'uniform'\nrates = [99]", "bits"),
        ("[[method]]\ncodec = 'uniform'\nrates = [2.5]", "The codec uniform: bits cannot be 2.5. Give a whole number"),
    ],
)
def test_files_of_sweeps_that_are_refused(text: str, words: str, cli: Callable[..., Completed], tmp_path: Path) -> None:
    (tmp_path / "sweeps.toml").write_text(text)
    assert words in complaint(cli("sweep", "--config", "sweeps.toml", "-o", "out"), alone=False)
    assert not (tmp_path / "out" / "points").exists()


def test_a_sweep_is_of_codecs_or_of_a_file(cli: Callable[..., Completed]) -> None:
    assert "Give either --codec, once or several times, or --config" in complaint(cli("sweep", "-o", "out"))
    assert "either --codec" in complaint(cli("sweep", "--codec", "uniform", "--config", "a.toml", "-o", "out"))
    assert "does not exist" in complaint(cli("sweep", "--config", "a.toml", "-o", "out"))
    assert "limit: Input" in complaint(cli("sweep", "--codec", "uniform", "--limit", 0, "-o", "out"))


# Tables and plots


@pytest.mark.parametrize("anchor_bits", [48_795_552, 10_095_000_000])
def test_the_table_of_a_curve_fits_80_columns(anchor_bits: int) -> None:
    methods = ("ectcq, calibrated", "ectcq", "prune, scope=global", "artifact")
    points = [
        point(method, 3, wer).model_copy(
            update={
                "configuration": name,
                "size_bits": int(0.99 * anchor_bits),
                "sent": "artifact" if method == "artifact" else "bitstream",
                "wer_low": 0.971,
                "wer_high": 1.234,
                "above_anchor": wer - 0.0255,
                "relative": wer / 0.0255 - 1,
            }
        )
        for method, name, wer in zip(
            methods, ("ectcq-2.512", "ectcq-2.512", "prune-0.05", "onnx-int8"), (1.0043, 0.0443, 0.0321, 0.5), strict=True
        )
    ]
    drawn = curve(*points, anchor=0.0255).model_copy(update={"anchor_size_bits": anchor_bits, "test_case": "HUBERT_ASR_XLARGE"})
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(tables.curve(drawn))
    shown = captured.get()
    assert "…" not in shown and all(len(line) <= 80 for line in shown.splitlines())
    rows = [line.split() for line in shown[shown.index("anchor, PyTorch") :].splitlines()]
    assert [row[0] for row in rows if len(row) >= 8 and row[-1] in ("in", "above")] == [
        "ectcq-2.512,",
        "ectcq-2.512",
        "prune-0.05",
        "onnx-int8",
    ]
    size = {48_795_552: "48.31", 10_095_000_000: "9994.0"}[anchor_bits]
    assert shown.count(size) == 4 and shown.count("97.1..123.4") == 4 and "+97.88 +3838% above" in shown
    assert "calibrated" in shown and "onnx-int8 *" in shown and "scope" not in shown
    assert "* artifact sent to the UE, otherwise the bitstream" in shown


@pytest.mark.parametrize(
    ("smallest", "ticks"), [(10, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]), (200, [0.2, 0.3, 0.4, 0.5, 0.7, 1]), (26, [0.03, 0.05, 0.1, 0.5])]
)
def test_a_legend_covers_no_points(smallest: int, ticks: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Figure] = []
    new = drawing.new_figure
    monkeypatch.setattr(drawing, "new_figure", lambda *given: kept.append(new(*given)) or kept[-1])
    names = ["a", "external, python $encode --qp {rate} " + 8 * "--and-more ", *"cdefgh"]
    points = [point(name, smallest + 40 * n, 0.03 + 0.002 * n) for n, name in enumerate(names)]
    drawn = curve(*(each.model_copy(update={"configuration": f"${each.size_bits}"}) for each in points))
    plots.plot_curve(drawn, tmp_path / "curve.png")
    (figure,) = kept
    (axes,), (legend,) = figure.axes, figure.legends
    figure.draw_without_rendering()
    below, plot = legend.get_window_extent(), axes.get_window_extent()
    assert below.y0 >= 0 and below.y1 < axes.xaxis.get_label().get_window_extent().y0 < plot.y0
    assert below.x0 >= 0 and below.x1 <= figure.bbox.width and plot.height > 300
    assert len(legend.get_texts()) == len(names) + 3
    low, high = axes.get_xlim()
    shown = [each.get_text() for each in axes.get_xticklabels() if low <= each.get_position()[0] <= high]
    assert {f"{each:g}" for each in ticks} <= set(shown)


# Reports


def test_the_saving_of_half_the_bits_is_a_half() -> None:
    rates = (0.06, 0.05, 0.03, 0.025)
    ours, theirs = ([point(name, bits * 2**n, wer) for n, wer in enumerate(rates)] for name, bits in (("a", 100), ("b", 50)))
    both = curve(*ours, *theirs)
    found = {(each.method, each.against): each for each in savings(both)}
    assert found["b", "a"].share == pytest.approx(0.5) and found["a", "b"].share == pytest.approx(-1.0)
    assert found["b", "a"].wer == pytest.approx((0.025, 0.06))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 2000)), min_size=1, max_size=12), st.floats(1.1, 5))
def test_savings_undo_each_other(raw: list[tuple[int, int]], factor: float) -> None:
    ours = [point("a", bits, errors / 10_000) for bits, errors in raw]
    theirs = [point("b", round(bits * factor) + 1, errors / 10_000) for bits, errors in raw]
    found = {(each.method, each.against): each.share for each in savings(curve(*ours, *theirs))}
    assert math.isfinite(sum(found.values()))
    if found:
        assert (1 - found["a", "b"]) * (1 - found["b", "a"]) == pytest.approx(1) and found["a", "b"] > 0
    front = pareto(ours)
    assert all(small.size_bits <= large.size_bits and small.wer > large.wer for small, large in itertools.pairwise(front))


def test_methods_that_never_meet_are_not_compared() -> None:
    assert savings(curve(point("a", 100, 0.06), point("a", 200, 0.05), point("b", 100, 0.03), point("b", 200, 0.025))) == []


def test_curves_of_other_anchors_are_not_mixed() -> None:
    with pytest.raises(AsrDeployError, match=r"of one and two have different anchor WERs: 0\.02 and 0\.03"):
        merged([curve(point("a", 100, 0.06)), curve(point("b", 100, 0.06), anchor=0.03)], ["one", "two"])
    once = merged([curve(point("a", 100, 0.06)), curve(point("a", 100, 0.06), point("b", 100, 0.06))])
    assert [each.method for each in once.points] == ["a", "b"]
    limited = reservations(once.model_copy(update={"main": "cer", "left_out": 2}))
    assert limited[0].startswith("2 recordings of d test-clean could not be transcribed and were left out. The reasons are in ")
    assert limited[1].startswith("The references of d test-clean have no spaces between words") and limited[2:] == reservations(once)
    assert reservations(once) == [f"{name} has 1 points in the WER range; a complete test case has 5." for name in "ab"]


@pytest.mark.parametrize(
    "changes", [{"wer": -0.1}, {"wer": math.nan}, {"wer": math.inf}, {"size_bits": 0}, {"c_size": math.inf}, {"wer_low": -1}]
)
def test_a_curve_of_impossible_figures_is_refused(changes: dict[str, float], tmp_path: Path) -> None:
    write_curve(curve(point("a", 100, 0.06)), tmp_path)
    plain = json.loads((tmp_path / "points.json").read_text())
    plain["points"][0] |= changes
    (tmp_path / "points.json").write_text(json.dumps(plain))
    with pytest.raises(AsrDeployError, match="is not a curve of this version of asrdeploy"):
        read_curve(tmp_path)


def test_a_report_by_commands(cli: Callable[..., Completed], tmp_path: Path) -> None:
    write_curve(curve(*(point("a", 100 * n, 0.08 / n) for n in range(1, 5))), tmp_path / "one")
    write_curve(curve(*(point("b", 70 * n, 0.08 / n) for n in range(1, 5))), tmp_path / "two")
    done = cli("report", "one", "two", "-o", "out")
    assert done.returncode == 0 and "+30.0%" in done.stdout and "a has 3 points in the WER range" in done.stderr
    out = tmp_path / "out"
    names = {"points.csv", "points.json", "savings.json", "comparisons.json", "curve.png", "curve.svg", "report.html", "inputs.json"}
    assert {path.name for path in out.iterdir()} == names and "contains no transcripts, so a-100 is not compared" in done.stderr
    assert len(list(csv.DictReader((out / "points.csv").open()))) == 8
    assert json.loads((out / "savings.json").read_text())[0].keys() == {"method", "against", "share", "wer"}
    assert "has no points.json" in complaint(cli("report", "nowhere"))
    (tmp_path / "one" / "points.json").write_text("[]")
    assert "is not a curve" in complaint(cli("report", "one"))


def test_a_sweep_by_command(cli: Callable[..., Completed], tmp_path: Path) -> None:
    done = cli("sweep", "--codec", "palette", "--limit", 4, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "palette-" in done.stdout and read_curve(tmp_path / "out").points[0].method == "palette"
