"""Comparisons of runs: paired, antisymmetric, shown with signs and colours, and refused for different utterances."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console

from device_runner.errors import AsrDeployError
from device_runner.transcripts import Transcript, read_transcripts
from tests.helpers import REPOSITORY, TERMINAL_VARIABLES, Completed, complaint
from tests.toolchain.accuracy.written_evaluations import Pair, transcripts_of, write_evaluation
from toolchain.accuracy.comparison import RunComparison, alignment, compare, compare_runs, compare_with_differences
from toolchain.accuracy.scoring import TRANSCRIPTS, score
from toolchain.reports.comparisons import aligned, verdict


def heard(errors: list[int]) -> list[Transcript]:
    """Return transcripts of four words each with the given numbers of errors."""
    return transcripts_of([("A B C D", " ".join("XXXX"[:each] + "ABCD"[each:])) for each in errors])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_comparisons_are_paired(errors: list[tuple[int, int]]) -> None:
    ours, anchors = (heard([each[side] for each in errors]) for side in (0, 1))
    (found,) = compare({"anchor": anchors, "ours": ours})
    assert (found.ours, found.theirs) == ("ours", "anchor")
    assert found.difference == pytest.approx(sum(mine - theirs for mine, theirs in errors) / (4 * len(errors)))
    assert found.interval[0] <= found.interval[1] and 0 < found.p <= 1
    assert found.not_worse == pytest.approx(sum(mine <= theirs for mine, theirs in errors) / len(errors))
    if found.interval[0] > 0 or found.interval[1] < 0:
        assert found.p < 0.06


def test_chance_and_more_than_chance() -> None:
    same, worse, other = heard([1, 0] * 50), heard([2, 1] * 50), heard([0, 1] * 50)
    found = {(each.ours, each.theirs): each for each in compare({"anchor": same, "worse": worse, "other": other})}
    assert len(found) == 3
    # Every utterance is one error worse, so all resamplings agree and the interval has no width.
    assert found["worse", "anchor"].interval == pytest.approx((0.25, 0.25)) and found["worse", "anchor"].p < 0.002
    assert found["other", "anchor"].difference == 0 and found["other", "anchor"].p > 0.5
    assert found["worse", "anchor"].not_worse == 0 and found["other", "anchor"].not_worse == 0.5
    (equal,) = compare({"anchor": same, "again": same})
    assert (equal.difference, equal.interval, equal.p, equal.not_worse) == (0, (0, 0), 1, 1)
    assert compare({}) == [] and compare({"anchor": same}) == []


# Two runs

A = {
    "same": ("THE CAT SAT", "THE CAT SAT"),
    "worse": ("THE DOG RAN AWAY", "THE DOG RAN AWAY"),
    "worst": ("FIVE SIX", "FIVE SIX"),
    "better": ("YES", "NO"),
    "other": ("ONE TWO", "ONE"),
    "filler": ("UM", "UM"),
}
B = {
    "same": ("THE CAT SAT", "THE CAT SAT"),
    "worse": ("THE DOG RAN AWAY", "THE FROG RAN AWAY"),
    "worst": ("FIVE SIX", "OH SIX OH"),
    "better": ("YES", "YES"),
    "other": ("ONE TWO", "TWO"),
    "filler": ("UM", ""),
}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    write_evaluation(tmp_path / "A", A)
    write_evaluation(tmp_path / "B", dict(reversed(B.items())))  # the order of the transcripts does not matter
    return tmp_path / "A", tmp_path / "B"


def test_two_runs_by_hand(runs: tuple[Path, Path]) -> None:
    found = compare_runs(*runs)
    assert (found.utterances, found.words, found.better, found.worse, found.equal) == (6, 13, 1, 3, 2)
    assert found.a.score == score(transcripts_of(A)) and found.b.score.wer == 5 / 13
    assert found.difference == pytest.approx(3 / 13) and found.interval[0] < 3 / 13 < found.interval[1]
    assert [(each.id, each.errors_a, each.errors_b) for each in found.differing] == [
        ("worse", 0, 1),
        ("worst", 0, 2),
        ("better", 1, 0),
        ("other", 1, 1),
        ("filler", 0, 1),
    ]
    assert [each.id for each in found.worsened] == ["worst", "worse", "filler"]
    assert [each.id for each in found.bettered] == ["better"]
    assert (found.a.configuration, found.b.configuration, found.normalizer) == ("A", "B", "none")
    assert (found.differing[1].reference, found.differing[1].hypothesis_b) == ("FIVE SIX", "OH SIX OH")


def test_two_runs_after_a_normaliser(runs: tuple[Path, Path]) -> None:
    found = compare_runs(*runs, "whisper")
    # Filler words are not counted, consecutive digits are one word, and the normalised texts are compared.
    assert (found.words, found.better, found.worse, found.equal) == (10, 1, 2, 3)
    assert (found.a.score, found.b.score) == tuple(score(transcripts_of(each), "whisper") for each in (A, B))
    worst = next(each for each in found.differing if each.id == "worst")
    assert (worst.reference, worst.hypothesis_b, worst.errors_b) == ("56", "060", 1)
    assert "filler" not in [each.id for each in found.differing]


WORDS = st.lists(st.sampled_from("ABCX"), max_size=5).map(" ".join)
UTTERANCES = st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=30)


def written(folder: Path, utterances: list[tuple[str, str, str]]) -> tuple[Path, Path]:
    for side, name in ((1, "A"), (2, "B")):
        write_evaluation(folder / name, [("S " + each[0], each[side]) for each in utterances])
    return folder / "A", folder / "B"


@settings(max_examples=40, deadline=None)
@given(UTTERANCES)
def test_the_other_way_round_is_the_opposite(tmp_path_factory: pytest.TempPathFactory, utterances: list[tuple[str, str, str]]) -> None:
    a, b = written(tmp_path_factory.mktemp("runs"), utterances)
    (there, drawn), (back, opposite) = compare_with_differences(a, b), compare_with_differences(b, a)
    assert there.difference == -back.difference == pytest.approx(there.b.score.wer - there.a.score.wer)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0])) and there.p == back.p
    assert np.array_equal(drawn, -opposite)
    assert (there.better, there.worse, there.equal) == (back.worse, back.better, back.equal)
    assert [each.id for each in there.differing] == [each.id for each in back.differing]
    assert [each.id for each in there.worsened] == [each.id for each in back.bettered]
    assert there.better + there.worse + there.equal == there.utterances == len(utterances)
    # The figures equal those of the report's comparisons.
    (paired,) = compare({"B": read_transcripts(b / TRANSCRIPTS), "A": read_transcripts(a / TRANSCRIPTS)})
    assert (paired.difference, *paired.interval, paired.p) == pytest.approx((there.difference, *there.interval, there.p))


@settings(max_examples=20, deadline=None)
@given(UTTERANCES, st.sampled_from(["none", "whisper"]))
def test_a_run_is_no_other_than_itself(
    tmp_path_factory: pytest.TempPathFactory, utterances: list[tuple[str, str, str]], normalizer: str
) -> None:
    a, _ = written(tmp_path_factory.mktemp("runs"), utterances)
    found = compare_runs(a, a, normalizer)
    assert (found.difference, found.interval, found.p) == (0, (0, 0), 1)
    assert (found.better, found.worse, found.equal, found.differing) == (0, 0, len(utterances), ())
    assert verdict(found) == "A and B transcribed every utterance identically. There is no difference."


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS)
def test_an_alignment_has_every_word(reference: str, hypothesis: str) -> None:
    runs = alignment(reference, hypothesis)
    assert " ".join(said for _, said, _ in runs if said) == reference
    assert " ".join(found for _, _, found in runs if found) == hypothesis
    assert all(len(said.split()) == len(found.split()) for tag, said, found in runs if tag == "replace")
    # The marked text can be parsed back without colours.
    assume(reference or hypothesis)
    shown = aligned(reference, hypothesis).plain
    assert " ".join(re.sub(r"\[\+\w+\] ?|\[-?(\w+)(→\w+)?\]", r"\1", shown).split()) == reference
    assert " ".join(re.sub(r"\[-\w+\] ?|\[\+?(?:\w+→)?(\w+)\]", r"\1", shown).split()) == hypothesis


@pytest.mark.parametrize(
    "a, b, words",
    [
        ([0] * 30, [1, 0] * 15, "B is worse by 12.50 WER points. The difference is significant (95 % interval +"),
        ([1, 0] * 15, [0] * 30, "B is better by 12.50 WER points. The difference is significant (95 % interval -"),
        ([0] * 30, [1] + [0] * 29, "B is worse by 0.83 WER points. The difference is not significant: other utterances"),
        ([1, 0] * 9, [0, 1] * 9, "A and B have the same WER with different errors (95 % interval -"),
    ],
)
def test_chance_in_plain_words(a: list[int], b: list[int], words: str, tmp_path: Path) -> None:
    for name, errors in (("A", a), ("B", b)):
        write_evaluation(tmp_path / name, [("A B C D", " ".join("XXXX"[:each] + "ABCD"[each:])) for each in errors])
    found = compare_runs(tmp_path / "A", tmp_path / "B")
    assert verdict(found).startswith(words)
    assert found.by_chance == ("The difference is significant" not in verdict(found))
    assert "-0.00" not in verdict(found.model_copy(update={"interval": (-1e-9, 0.5)}))


def test_other_errors_as_many_everywhere(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "A", [("A B", "X B")])
    write_evaluation(tmp_path / "B", [("A B", "A X")])
    found = verdict(compare_runs(tmp_path / "A", tmp_path / "B"))
    assert found == "A and B made equally many errors in every utterance. There is no difference."


# The command


def test_the_command_shows_what_got_worse(cli: Callable[..., Completed], runs: tuple[Path, Path]) -> None:
    done = cli("compare", "A", "B")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert max(map(len, lines)) <= 80 and "\x1b" not in done.stdout
    assert lines[0] == "6 utterances, 13 words, normaliser none; WER and differences in %"
    (difference,) = (line.split() for line in lines if line.lstrip().startswith("B minus A"))
    assert difference[3] == "+23.08" and difference[-1] == "+3"
    assert "B has fewer errors than A in 1 of 6 utterances, as many in 2, more in 3" in lines
    at = lines.index("B has more errors than A: 3 utterances")
    assert lines[at + 1 : at + 9] == [
        "worst: 0 in A, 2 in B",
        "  reference  FIVE SIX",
        "  A          FIVE SIX",
        "  B          [FIVE→OH] SIX [+OH]",
        "worse: 0 in A, 1 in B",
        "  reference  THE DOG RAN AWAY",
        "  A          THE DOG RAN AWAY",
        "  B          THE [DOG→FROG] RAN AWAY",
    ]
    assert lines[-1] == "  B          [-UM]"
    assert "[reference→hypothesis] substituted  [-reference] deleted  [+hypothesis] inserted" in lines
    assert "better:" not in done.stdout


def test_the_command_shows_as_much_as_is_asked_for(cli: Callable[..., Completed], runs: tuple[Path, Path]) -> None:
    shown = cli("compare", "A", "B", "--show", "1", "--better").stdout
    assert "3 utterances, the 1 with the largest difference" in shown and "worst:" in shown and "worse:" not in shown
    assert "B has fewer errors than A: 1 utterance\nbetter: 1 in A, 0 in B\n" in "\n".join(map(str.rstrip, shown.splitlines()))
    none = cli("compare", "A", "B", "--show", "0", "--better").stdout
    assert "reference" not in none and "significant" in none
    assert "after" not in none and "normaliser whisper" in cli("compare", "A", "B", "--normalizer", "whisper").stdout
    itself = cli("compare", "A", "A")
    assert "There is no difference" in itself.stdout and "0.00" in itself.stdout and "-0.00" not in itself.stdout


def test_what_is_said_is_no_command_to_a_terminal_or_to_rich(cli: Callable[..., Completed], tmp_path: Path) -> None:
    said = "[red]A[/red] \x1b[2J B"
    write_evaluation(tmp_path / "A", [(said, said)])
    write_evaluation(tmp_path / "B", [(said, "[bold]")])
    done = cli("compare", "A", "B")
    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert "reference  [red]A[/red] \\x1b[2J B" in done.stdout and "→[bold]]" in done.stdout


LONG = " ".join(["EXTRAORDINARILY"] * 20 + ["X" * 200])


def test_long_texts_and_names_fit_80_columns(cli: Callable[..., Completed], tmp_path: Path) -> None:
    names = [f"{'results-of-a-model-with-a-long-name-' * 3}{side}" for side in "ab"]
    write_evaluation(tmp_path / names[0], {"an-utterance-" * 12: (LONG, LONG)})
    write_evaluation(tmp_path / names[1], {"an-utterance-" * 12: (LONG, LONG.replace("X", "Y") + " OH")})
    done = cli("compare", *names)
    assert done.returncode == 0 and max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 80
    assert max(len(line.rstrip()) for line in cli("score", *names).stdout.splitlines()) <= 80


def test_two_runs_of_one_name_are_told_apart_by_their_folders(cli: Callable[..., Completed], tmp_path: Path) -> None:
    for name, changes in (("x/A", {}), ("y/A", {}), ("z/A", {"device": "emulator-5554"})):
        write_evaluation(tmp_path / name, A, **changes)
    assert "x/A" in (done := cli("compare", "x/A", "y/A")).stdout and "y/A" in done.stdout
    assert "A on emulator-5554" in cli("compare", "x/A", "z/A").stdout


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_colours_are_for_terminals(terminal: bool, runs: tuple[Path, Path]) -> None:
    surroundings = {name: value for name, value in os.environ.items() if name not in TERMINAL_VARIABLES}
    surroundings |= {"TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "80"}
    command = [sys.executable, "-m", "asrdeploy", "compare", *map(str, runs)]
    if terminal:
        ours, theirs = pty.openpty()
        with subprocess.Popen(command, stdout=theirs, stdin=theirs, stderr=theirs, env=surroundings) as process:
            os.close(theirs)
            shown = b""
            while True:
                try:
                    part = os.read(ours, 65536)
                except OSError:  # Linux raises this error when the other end is closed
                    break
                if not part:
                    break
                shown += part
        os.close(ours)
        assert process.returncode == 0
        text = shown.decode()
    else:
        done = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=120)
        assert done.returncode == 0, done.stderr
        text = done.stdout
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "[FIVE→OH] SIX [+OH]" in plain and "[-UM]" in plain
    assert ("\x1b[33m[FIVE→OH]" in text, "\x1b[36m[+OH]" in text, "\x1b[31m[-UM]" in text) == (terminal,) * 3
    assert ("\x1b" in text) is terminal


def test_figures_and_plot_as_files(cli: Callable[..., Completed], runs: tuple[Path, Path], tmp_path: Path) -> None:
    done = cli("compare", "A", "B", "--json", "out/c.json", "--plot", "out/c.png")
    assert done.returncode == 0 and "The plot is out/c.png.\nJSON written to out/c.json.\n" in done.stdout
    found = RunComparison.model_validate_json((tmp_path / "out" / "c.json").read_text())
    assert found == compare_runs(Path("A"), Path("B"))
    assert {"a", "b", "difference", "interval", "p", "better", "worse", "equal", "differing"} <= json.loads(
        (tmp_path / "out" / "c.json").read_text()
    ).keys()
    assert len(np.unique(imread(tmp_path / "out" / "c.png").reshape(-1, 4), axis=0)) > 20  # the plot is not empty
    assert cli("compare", "A", "A", "--plot", "itself.svg").returncode == 0  # all differences are 0
    assert "<svg" in (tmp_path / "itself.svg").read_text()


@pytest.mark.parametrize(
    "b, words",
    [
        (
            {name: pair for name, pair in B.items() if name != "other"},
            "A has 1 utterance that B does not have, for example other. Only runs",
        ),
        ({"same": B["same"]}, "A has 5 utterances that B does not have, for example worse. Only runs on the same utterances"),
        (B | {"new": ("A", "A")}, "B has 1 utterance that A does not have, for example new. Only runs on the same utterances"),
        (B | {"same": ("THE CAT SAW", "")}, "The reference of same is “THE CAT SAT” in A and “THE CAT SAW” in B. Only runs with"),
        (B | {"same": (LONG, "")}, "“THE CAT SAT” in A and “EXTRAORDINARILY EXTRAORDINARILY EXTRAORDINARILY EXTRAORDINA…” in B"),
    ],
)
def test_runs_of_other_utterances_are_refused(b: dict[str, Pair], words: str, cli: Callable[..., Completed], tmp_path: Path) -> None:
    write_evaluation(tmp_path / "A", A)
    write_evaluation(tmp_path / "B", b)
    assert words in complaint(cli("compare", "A", "B", "--json", "c.json"))
    assert not (tmp_path / "c.json").exists()


def test_two_transcripts_of_one_utterance_are_refused(runs: tuple[Path, Path]) -> None:
    lines = runs[1] / TRANSCRIPTS
    first, _, *rest = lines.read_text().splitlines(keepends=True)
    lines.write_text("".join([first, first, *rest]))
    with pytest.raises(AsrDeployError, match="B has two transcripts of the same utterance"):
        compare_runs(*runs)


def test_arguments_that_are_refused(cli: Callable[..., Completed], runs: tuple[Path, Path], tmp_path: Path) -> None:
    assert "nowhere is not a finished evaluation: it has no result.json" in complaint(cli("compare", "A", "nowhere"))
    assert "Did you mean whisper?" in complaint(cli("compare", "A", "nowhere", "--normalizer", "whispr"))  # before a folder is read
    assert "Cannot write a plot to c.txt. Use a suffix such as .png" in complaint(cli("compare", "A", "B", "--plot", "c.txt"))
    assert "Cannot write a plot to c. " in complaint(cli("compare", "A", "B", "--plot", "c"))
    assert "Cannot write A: " in complaint(cli("compare", "A", "B", "--json", "A"))
    assert cli("compare", "A").returncode == 2 and cli("compare", "A", "B", "--show", "-1").returncode == 2
    write_evaluation(tmp_path / "C", [("UM", "UM")])
    assert "no words after the normaliser whisper" in complaint(cli("compare", "C", "C", "--normalizer", "whisper"))


def test_nothing_heard_is_said() -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as shown:
        console.print(aligned("", ""), aligned("A", ""), aligned("", "B"))
    assert shown.get().split() == ["(nothing)", "[-A]", "[+B]"]
