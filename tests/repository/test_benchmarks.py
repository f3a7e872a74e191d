"""Benchmarks: runner, figures, comparison and page. No test depends on a measured time."""

import getpass
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import codecs, comparing, long_recordings, page, results, startup
from benchmarks.catalogue import BENCHMARKS, Benchmark, find
from benchmarks.common import Figures, Row, groups, in_turn, number, ratio_of, timing_rows
from benchmarks.results import STORED, Machine, OtherWork, Stored, path_of, read, write
from benchmarks.running import is_done, run_all, run_one
from device_runner.artifact import Artifact
from device_runner.errors import AsrDeployError
from device_runner.files import write_json
from tests.helpers import REPOSITORY, hears_ctrl_c
from toolchain.accuracy.transcriber import open_transcriber

COMMIT = "0123456789ab"
KNOWN = {each.name: each for each in BENCHMARKS}
# The smallest latency benchmark: one export of the bundled model and a few runs.
SMALL = replace(KNOWN["latency"], quick=("--rounds", "1", "--runs", "2", "--seconds", "0.5", "--schemes", "int8-full"))
BROKEN = replace(KNOWN["codecs"], quick=("--rounds", "many"))
positive = st.floats(min_value=1e-6, max_value=1e6)


def silent() -> Console:
    return Console(quiet=True)


def made(name: str = "latency", *, command: str | None = None, cpu: str = "some", factor: float = 1.0, rows: int = 3) -> Stored:
    """Return a result with a baseline of 1 ms and other rows of 2, 3, … ms times a factor."""
    values = {"bare onnxruntime": 1.0} | {f"way {each}": factor * each for each in range(2, rows + 1)}
    measure, part = KNOWN[name].plot or ("size", "")
    figures = [
        Row(group=f"a model {part}".strip(), what=what, measure=measure, value=value, unit="ms", better="less", ratio=value, spread=0.1)
        for what, value in values.items()
    ]
    return Stored(
        setting="quick",
        command=command or KNOWN[name].command("quick"),
        date="2026-01-02",
        commit=COMMIT,
        machine=results.machine().model_copy(update={"cpu": cpu}),
        seconds=1.5,
        other_work=0.0,
        figures=Figures(benchmark=name, baseline="bare onnxruntime", rows=tuple(figures), notes=("A note.",)),
    )


def folder_of(path: Path, *stored: Stored) -> Path:
    for each in stored:
        write(path_of(path, each.figures.benchmark, each.setting), each)
    return path


def command_line(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True)


# Running


def test_a_run_writes_figures_facts_and_command_and_no_names(tmp_path: Path) -> None:
    run_all([SMALL], "quick", tmp_path, resume=False, console=silent())
    (path,) = tmp_path.iterdir()
    stored = read(path)
    assert (
        path.name == "latency-quick.json"
        and stored.command == "python -m benchmarks.latency --rounds 1 --runs 2 --seconds 0.5 --schemes int8-full"
    )
    assert {row.what for row in stored.figures.rows} == {"bare onnxruntime", "engine", "latency job"}
    assert all(row.value > 0 and row.ratio for row in stored.figures.rows)
    assert {row.ratio for row in stored.figures.rows if row.what == stored.figures.baseline} == {1.0}
    assert stored.seconds > 0 and stored.machine == results.machine() and names_in(path.read_text()) == []


def test_a_failed_benchmark_leaves_what_was_finished_and_says_so(tmp_path: Path) -> None:
    kept = made()
    folder_of(tmp_path, kept)
    with pytest.raises(AsrDeployError, match=r"benchmark codecs failed with exit code 2\. .*--resume"):
        run_all([BROKEN], "quick", tmp_path, resume=False, console=silent())
    assert [each.name for each in tmp_path.iterdir()] == ["latency-quick.json"] and read(path_of(tmp_path, "latency", "quick")) == kept


def test_a_stopped_run_leaves_no_half_file(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks", "run", "--only", "latency", "--results", str(tmp_path)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=REPOSITORY, **pipes, start_new_session=True, preexec_fn=hears_ctrl_c) as run:
        assert run.stdout is not None and run.stderr is not None
        assert "benchmarks.latency" in run.stdout.readline()
        os.killpg(run.pid, signal.SIGINT)
        said = run.stderr.read()
    assert run.returncode == 130 and "Interrupted. Finished results are kept." in said
    assert list(tmp_path.iterdir()) == []


def test_a_result_stays_only_where_commit_command_and_machine_are_the_same(tmp_path: Path) -> None:
    path = path_of(folder_of(tmp_path, made(cpu=results.machine().cpu)), "latency", "quick")
    command = SMALL.command("quick")
    assert is_done(path, KNOWN["latency"].command("quick"), COMMIT)
    assert not is_done(path, command, COMMIT)
    for commit in (None, "ba9876543210", COMMIT + results.CHANGED):
        assert not is_done(path, KNOWN["latency"].command("quick"), commit)
    write(path, made(cpu="another"))
    assert not is_done(path, KNOWN["latency"].command("quick"), COMMIT)
    assert not is_done(tmp_path / "codecs-quick.json", command, COMMIT)


def test_resuming_runs_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "commit", lambda: COMMIT)
    stored = made("codecs", command=BROKEN.command("quick"), cpu=results.machine().cpu)
    folder_of(tmp_path, stored)
    run_all([BROKEN], "quick", tmp_path, resume=True, console=silent())  # would fail if it ran
    assert read(path_of(tmp_path, "codecs", "quick")) == stored


@pytest.mark.parametrize("content", ["", "{", "[]", '{"setting": "quick"}', '{"setting": "slow"}', b"\xff\xfe"])
def test_a_broken_result_is_one_sentence_and_code_2(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "latency-quick.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AsrDeployError, match=r"is not a valid benchmark result .*\. Delete it and run `make bench` again\.$"):
        read(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compare", "--new", "{}", "--against", "{}"), "is not a valid benchmark result"),
        (("page", "--results", "{}", "--output", "{}/page.md"), "is not a valid benchmark result"),
        (("page", "--results", "{}/none", "--output", "{}/page.md"), "contains no results. Run `make bench`."),
        (("compare", "--new", "{}/none", "--against", "{}/none"), "contains no results of the quick setting"),
        (("run", "--only", "speed", "--results", "{}"), "Unknown benchmark “speed” in --only. Choose from startup, latency"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence_and_code_2(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "latency-quick.json").write_text('{"setting": "quick"}')
    done = command_line(*(each.format(tmp_path) for each in words))
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["latency-quick.json"]


def test_figures_that_a_benchmark_left_broken_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_nonsense(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        write_json(Path(words[-1]), {"benchmark": "latency"})
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr("benchmarks.running.subprocess", SimpleNamespace(run=write_nonsense))
    with pytest.raises(AsrDeployError, match="is not a valid benchmark result"):
        run_one(SMALL, "quick")


def test_a_command_that_does_not_start_is_a_sentence() -> None:
    with pytest.raises(AsrDeployError, match=r"`python -c raise SystemExit.'no'.` failed with exit code 1: no"):
        startup.process(("-c", "raise SystemExit('no')"), os.environ)()


@pytest.mark.parametrize(
    ("busy", "own", "cores"),
    [((10.0, 13.0), (1.0, 2.0), 2.0), ((10.0, 10.5), (1.0, 2.0), 0.0), ((None, None), (1.0, 2.0), None), ((10.0, None), (1.0, 2.0), None)],
    ids=["some", "less than ours", "not told", "not told at last"],
)
def test_other_work_is_what_others_kept_busy(
    busy: tuple[float | None, float | None], own: tuple[float, float], cores: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, all_seconds, own_seconds = iter((0.0, 1.0)), iter(busy), iter(own)
    monkeypatch.setattr("benchmarks.results.time", SimpleNamespace(monotonic=lambda: next(times)))
    monkeypatch.setattr("benchmarks.results._busy_seconds", lambda: next(all_seconds))
    monkeypatch.setattr("benchmarks.results._own_seconds", lambda: next(own_seconds))
    assert OtherWork().cores() == cores


# Figures


def test_every_way_is_called_once_a_round_in_turn() -> None:
    called: list[str] = []

    def way(name: str) -> Callable[[], float]:
        return lambda: called.append(name) or float(len(called))  # type: ignore[func-returns-value]

    found = in_turn({name: way(name) for name in "ab"}, 2, discarded=1)
    assert called == list("ababab") and found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=9), st.floats(min_value=0.5, max_value=2))
def test_ratios_do_not_know_how_fast_the_machine_is(pairs: list[tuple[float, float]], speed: float) -> None:
    own, base = zip(*pairs, strict=True)
    ratio, spread = ratio_of(own, base)
    faster = ratio_of([speed * each for each in own], [speed * each for each in base])
    assert faster == pytest.approx((ratio, spread), rel=1e-6, abs=1e-6)
    assert min(one / other for one, other in pairs) <= ratio <= max(one / other for one, other in pairs) and spread >= 0
    assert ratio_of(base, base) == (1.0, 0.0)


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_written_figures_are_near_what_was_measured(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.055)
    assert number(-value) == f"-{number(value)}"


def test_tables_have_a_ratio_only_where_there_is_one() -> None:
    rows = (
        *timing_rows("g", "time", {"base": [1.0, 2.0], "own": [2.0, 6.0]}, "base"),
        Row(group="g", what="own", measure="WER", value=2.5, unit="%", better="less", interval=(1.0, 4.0)),
    )
    (table,) = groups(Figures(benchmark="b", baseline="base", rows=rows))
    assert table.heads == ("", "time, ms", "x", "WER, %")
    assert table.lines == (("base", "1,500", "1.00", ""), ("own", "4,000", "2.50", "2.50 (1.0..4.0)"))


def test_codecs_are_measured_on_weights_of_any_size() -> None:
    state = {"a.weight": torch.randn(64, 32, generator=torch.Generator().manual_seed(0))}
    choices = {name: codecs.CHOICES[name] for name in ("fp16", "uniform-4", "ectcq-3")}
    rows = list(codecs.measure(codecs.GAUSSIAN, state, choices, rounds=2))
    found = {(row.what, row.measure): row for row in rows}
    assert set(found) == set(product(choices, ("rate", "SNR", "gap", "encode", "decode")))
    assert found["fp16", "encode"].ratio == 1 and found["fp16", "SNR"].value > found["uniform-4", "SNR"].value > 0
    assert found["fp16", "rate"].value > 16 > found["uniform-4", "rate"].value


def test_long_recordings_are_measured_as_files_and_in_windows(tiny_fp32: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "speech").mkdir()
    audio = long_recordings.write_hour(tmp_path / "speech", 61.0)
    rows = list(long_recordings.measure_hour(tiny_fp32, tmp_path / "speech", audio, rounds=1))
    assert audio >= 61 and [row.ratio for row in rows[:2]] == [1.0, 1.0]
    assert {row.what for row in rows} == {long_recordings.SHORT, long_recordings.TENS, long_recordings.LONG}
    few = long_recordings.utterances_of("dev-clean")[:16]
    monkeypatch.setattr(long_recordings, "utterances_of", lambda split: few)
    found = list(long_recordings.measure_windows(open_transcriber(tiny_fp32.folder), {"5/1": (5.0, 1.0)}, orders=1, rounds=1))
    assert {(row.what, row.measure) for row in found} >= {("windows of 5/1 s", "changed"), (long_recordings.WHOLE, "WER")}
    with pytest.raises(AsrDeployError, match=r"--windows 10: write WINDOW/OVERLAP in seconds"):
        long_recordings.windows_of("10")


# Comparing


def test_twice_as_slow_is_worse_and_the_same_is_nothing(tmp_path: Path) -> None:
    old, new = folder_of(tmp_path / "old", made()), folder_of(tmp_path / "new", made(factor=2.0))
    (base, *others) = comparing.compare(old, new, "quick").changes
    assert base.ratio_change == 1 and base.verdict == ""
    assert {each.ratio_change for each in others} == {2.0} and {each.value_change for each in others} == {2.0}
    assert {each.verdict for each in others} == {"worse"}
    assert {each.verdict for each in comparing.compare(new, old, "quick").changes} == {"", "better"}


def test_on_another_machine_values_are_not_compared_and_the_screen_says_why(tmp_path: Path) -> None:
    old, new = folder_of(tmp_path / "old", made()), folder_of(tmp_path / "new", made(cpu="another", factor=1.5))
    done = command_line("compare", "--new", new, "--against", old, "--json", tmp_path / "changes.json")
    assert done.returncode == 0 and "worse" in done.stdout
    assert "latency: the machines differ in cpu, so only ratios are compared" in " ".join(done.stdout.split())
    found = comparing.Comparison.model_validate_json((tmp_path / "changes.json").read_text())
    assert {each.value_change for each in found.changes} == {None} and found.changes[1].ratio_change == 1.5


def test_missing_rows_and_benchmarks_are_named_and_fail_nothing(tmp_path: Path) -> None:
    old = folder_of(tmp_path / "old", made(rows=3), made("codecs"))
    new = folder_of(tmp_path / "new", made(rows=2), made("startup"))
    done = command_line("compare", "--new", new, "--against", old)
    said = " ".join(done.stdout.split())
    assert done.returncode == 0 and "codecs has no new result." in said and "startup has no stored result." in said
    assert "latency: “a model, way 3, fastest run” is only in the stored result." in said
    assert len(comparing.compare(old, new, "quick").changes) == 2
    assert "codecs" not in " ".join(comparing.compare(old, new, "quick", ["latency"]).missing)


rows_of_figures = st.builds(
    Row,
    group=st.sampled_from("gh"),
    what=st.text(max_size=5),
    measure=st.sampled_from(["time", "size"]),
    value=positive,
    unit=st.just("ms"),
    better=st.sampled_from(["less", "more"]),
    ratio=st.none() | positive,
    spread=st.none() | st.floats(min_value=0, max_value=3),
)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(rows_of_figures, unique_by=lambda row: (row.group, row.what, row.measure)))
def test_a_result_compared_with_itself_has_not_changed(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    stored = made()
    stored = stored.model_copy(update={"figures": stored.figures.model_copy(update={"rows": tuple(rows)})})
    folder = folder_of(tmp_path_factory.mktemp("results"), stored)
    assert read(path_of(folder, "latency", "quick")) == stored
    found = comparing.compare(folder, folder, "quick")
    assert len(found.changes) == len(rows) and found.missing == ()
    assert {(each.verdict, each.value_change) for each in found.changes} <= {("", 1.0)}
    assert all(each.ratio_change == (None if row.ratio is None else 1.0) for each, row in zip(found.changes, rows, strict=True))


# The page


def names_in(text: str) -> list[str]:
    """Return names and folders in a text that would identify the machine or its user."""
    secret = {getpass.getuser(), socket.gethostname(), str(Path.home()), str(REPOSITORY)} - {""}
    return [each for each in secret if re.search(rf"\b{re.escape(each)}\b", text)] + re.findall(r"/(?:home|root|tmp|Users)/\S*", text)


def test_the_page_is_what_the_committed_results_make_of_it() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.text(STORED), "run `python -m benchmarks page`"


def test_the_plots_are_those_of_the_committed_results() -> None:
    drawn = {path.stem: path.read_text(encoding="utf-8") for path in page.PAGE.with_suffix("").glob("*.svg")}
    wanted = {benchmark.name: page.digest(stored) for benchmark, stored in page.newest(STORED) if page.has_plot(benchmark, stored)}
    assert drawn.keys() == wanted.keys() and all(wanted[name] in text for name, text in drawn.items()), "run `python -m benchmarks page`"


def test_committed_results_are_of_the_commands_that_the_catalogue_has_and_name_nobody() -> None:
    paths = sorted(STORED.iterdir())
    assert {benchmark.name for benchmark, _ in page.newest(STORED)} == set(KNOWN)
    for path in paths:
        stored = read(path)
        assert path.name == f"{stored.figures.benchmark}-{stored.setting}.json"
        assert stored.command == KNOWN[stored.figures.benchmark].command(stored.setting), f"{path.name}: run `make bench` again"
        assert names_in(path.read_text()) == []


def test_the_same_results_make_the_same_page_and_plots(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "results", made(), made("codecs", cpu="another"))
    for name in ("one", "two"):
        page.write(folder, tmp_path / name / "performance.md")
    first, second = ({each.name: each.read_bytes() for each in (tmp_path / name).rglob("*.*")} for name in ("one", "two"))
    assert first == second and {"performance.md", "latency.svg"} <= first.keys()
    text = first["performance.md"].decode()
    assert "| A | some" in text and "| B | another" in text and "machine B" in text and "A note." in text
    assert "| way 3 | 3.00 | 3.00 |" in text and "Other processes used 0.00 of the" in text


def test_the_page_prefers_the_full_setting_and_tells_of_other_work(tmp_path: Path) -> None:
    quick, full = made(), made(factor=7.0).model_copy(update={"setting": "full", "other_work": 1000.0})
    text = page.text(folder_of(tmp_path, quick, full))
    assert "Full setting" in text and "| way 3 | 21.0 | 21.0 |" in text and "3.00 | 3.00" not in text
    assert re.search(r"\*\*Other processes used 1,?000 of the \d+ cores on average\.\*\*", text)
    assert page.beside(made().model_copy(update={"other_work": None})) == ""


def test_results_beside_other_work_are_not_drawn_and_older_plots_go(tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    page.write(folder_of(tmp_path / "results", made()), path)
    assert "performance/latency.svg" in path.read_text() and (tmp_path / "performance" / "latency.svg").is_file()
    page.write(folder_of(tmp_path / "results", made().model_copy(update={"other_work": 100.0})), path)
    assert "svg" not in path.read_text() and list((tmp_path / "performance").iterdir()) == []


def test_a_result_without_what_is_drawn_asks_for_a_new_run(tmp_path: Path) -> None:
    stored = made()
    old = stored.model_copy(update={"figures": stored.figures.model_copy(update={"rows": ()})})
    with pytest.raises(AsrDeployError, match=r"latency has no measure “fastest run” to plot\. Run `make bench` again"):
        page.write(folder_of(tmp_path, old), tmp_path / "performance.md")
    assert not (tmp_path / "performance.md").exists()


# The catalogue and the documents


def test_every_module_that_measures_is_in_the_catalogue() -> None:
    measuring = {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py") if "arguments_of(__doc__" in path.read_text()}
    assert measuring == set(KNOWN)
    assert find(None) == BENCHMARKS and find(["codecs", "startup", "codecs"]) == (KNOWN["codecs"], KNOWN["startup"])


def test_documents_name_benchmarks_that_exist() -> None:
    documents = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in documents)
    assert set(re.findall(r"python -m benchmarks\.(\w+)", text)) <= set(KNOWN)
    assert "python benchmarks/" not in text


def test_a_machine_has_no_field_for_a_name() -> None:
    wanted = {"cpu", "cpu_features", "int8_exact", "usable_cpus", "memory_gb", "system", "python", "versions"}
    assert set(Machine.model_fields) == wanted and isinstance(SMALL, Benchmark)
