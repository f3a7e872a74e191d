"""Sweeps and reports: five points by themselves, nothing done twice, and which method sends fewer bits."""

import csv
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Completed, complaint
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from device_runner.transcripts import Transcript
from toolchain.datasets import open_data
from toolchain.models import AnchorModel, load_model
from toolchain.points import Curve, Point, write_curve
from toolchain.report import incomplete, merged, pareto, read_curve, savings
from toolchain.sweep import RATES, Sweep


class Watcher:
    """Notes the steps of a sweep, and stops it where it is told to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps: list[str] = []
        self.utterances = 0
        self.stop_after = stop_after

    def configuration(self, name: str, step: str, utterances: int) -> Callable[[Transcript], None]:
        self.steps.append(f"{name} {step}")
        return self.count

    def count(self, transcript: Transcript) -> None:
        self.utterances += 1
        if self.utterances == self.stop_after:
            raise KeyboardInterrupt


def small_sweep(tiny: AnchorModel, folder: Path, watcher: Watcher, codec: str = "uniform", **fixed: str) -> Curve:
    dev, test = (open_data("digits", split).limited(20) for split in ("dev-clean", "test-clean"))
    return Sweep(tiny, codec, fixed, None, dev, test, folder, 1, watcher).run()


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
    )


def curve(*points: Point, anchor: float = 0.02) -> Curve:
    return Curve(
        test_case="T",
        data="d",
        split="test-clean",
        anchor_size_bits=1000,
        anchor_wer=anchor,
        anchor_wer_interval=(anchor, anchor),
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


@pytest.mark.parametrize(
    ("codec", "fixed", "words"),
    [
        ("ectqc", {}, r"Did you mean ectcq\?"),
        ("uniform", {"bits": "3"}, "the sweep chooses it"),
        ("uniform", {"scope": "everything"}, "scope is"),
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
    with pytest.raises(AsrDeployError, match="holds no sweep"):
        small_sweep(tiny, tmp_path / "b", Watcher())


@given(lowest=st.floats(0.05, 60), name=st.sampled_from(sorted(RATES)), more=st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_rates_are_new_and_the_codecs(lowest: float, name: str, more: int) -> None:
    sweep = object.__new__(Sweep)  # the anchor and the data play no part in the choice
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
    if bits > 2:  # one bit fewer breaks it on a split
        assert max(sweep._loss(bits - 1, data)[1] for data in (dev, test)) > 0.03
    with pytest.raises(AsrDeployError, match=r"stays within -5 points"):
        sweep.smallest(-0.05)


# Reports


def test_the_saving_of_half_the_bits_is_a_half() -> None:
    rates = (0.06, 0.05, 0.03, 0.025)
    ours, theirs = ([point(name, bits * 2**n, wer) for n, wer in enumerate(rates)] for name, bits in (("a", 100), ("b", 50)))
    both = curve(*ours, *theirs)
    found = {(each.method, each.against): each for each in savings(both)}
    assert found["b", "a"].share == pytest.approx(0.5) and found["a", "b"].share == pytest.approx(-1.0)
    assert found["b", "a"].wer == pytest.approx((0.025, 0.06))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 0.2)), min_size=1, max_size=12), st.floats(1.1, 5))
def test_savings_undo_each_other(raw: list[tuple[int, float]], factor: float) -> None:
    ours = [point("a", bits, wer) for bits, wer in raw]
    theirs = [point("b", round(bits * factor) + 1, wer) for bits, wer in raw]
    found = {(each.method, each.against): each.share for each in savings(curve(*ours, *theirs))}
    assert math.isfinite(sum(found.values()))
    if found:
        assert (1 - found["a", "b"]) * (1 - found["b", "a"]) == pytest.approx(1) and found["a", "b"] > 0
    front = pareto(ours)
    assert all(small.size_bits <= large.size_bits and small.wer > large.wer for small, large in itertools.pairwise(front))


def test_methods_that_never_meet_are_not_compared() -> None:
    assert savings(curve(point("a", 100, 0.06), point("a", 200, 0.05), point("b", 100, 0.03), point("b", 200, 0.025))) == []


def test_curves_of_other_anchors_are_not_mixed() -> None:
    with pytest.raises(AsrDeployError, match="different test cases"):
        merged([curve(point("a", 100, 0.06)), curve(point("b", 100, 0.06), anchor=0.03)])
    once = merged([curve(point("a", 100, 0.06)), curve(point("a", 100, 0.06), point("b", 100, 0.06))])
    assert [each.method for each in once.points] == ["a", "b"]
    assert incomplete(once) == [f"{name} has 1 points in the range; a complete test case has 5." for name in "ab"]


def test_a_report_by_commands(cli: Callable[..., Completed], tmp_path: Path) -> None:
    write_curve(curve(*(point("a", 100 * n, 0.08 / n) for n in range(1, 5))), tmp_path / "one")
    write_curve(curve(*(point("b", 70 * n, 0.08 / n) for n in range(1, 5))), tmp_path / "two")
    done = cli("report", "one", "two", "-o", "out")
    assert done.returncode == 0 and "+30.0%" in done.stdout and "a has 3 points in the range" in done.stderr
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"points.csv", "points.json", "savings.json", "curve.png", "curve.svg"}
    assert len(list(csv.DictReader((out / "points.csv").open()))) == 8
    assert json.loads((out / "savings.json").read_text())[0].keys() == {"method", "against", "share", "wer"}
    assert "has no points.json" in complaint(cli("report", "nowhere"))
    (tmp_path / "one" / "points.json").write_text("[]")
    assert "is not a curve" in complaint(cli("report", "one"))


def test_a_sweep_by_command(cli: Callable[..., Completed], tmp_path: Path) -> None:
    done = cli("sweep", "--codec", "palette", "--limit", 4, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "palette-" in done.stdout and read_curve(tmp_path / "out").points[0].method == "palette"
