"""Scores compared with manual counts and torcheval, normalised scores, and rescoring without running the model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torcheval.metrics import WordErrorRate

from device_runner.errors import AsrDeployError
from tests.helpers import Completed, complaint
from tests.toolchain.accuracy.written_evaluations import Pair, timings_of, transcriber, transcripts_of, write_evaluation
from toolchain.accuracy.metrics import bootstrap_interval
from toolchain.accuracy.scoring import RESULT, TRANSCRIPTS, Evaluation, ScoredRuns, make_evaluation, read_evaluation, rescore, score
from toolchain.data.datasets import DataSet
from toolchain.data.normalisers import normaliser

PAIRS = [
    ("THE CAT SAT", "THE CAT SAT"),
    ("THE DOG RAN AWAY", "THE FROG RAN"),  # a substitution and a deletion
    ("YES", "OH YES YES"),  # two insertions
]


@pytest.mark.parametrize(
    "pairs, words, substitutions, deletions, insertions",
    [
        (PAIRS, 8, 1, 1, 2),
        ([("THE CAT", "THE CAT")], 2, 0, 0, 0),
        ([("THE CAT", "")], 2, 0, 2, 0),
        ([("CAT", "A FAT BAT")], 1, 1, 0, 2),  # WER of 3
        ([("A CAT SAT", " ".join(["OH"] * 500))], 3, 3, 0, 497),  # float32 does not represent this WER to 1e-6
        ([("THE COLOUR", "the color")], 2, 2, 0, 0),  # without a normaliser, case counts
        ([("IT'S UM FINE", "IT IS FINE")], 3, 2, 0, 0),
    ],
)
def test_golden(pairs: list[Pair], words: int, substitutions: int, deletions: int, insertions: int) -> None:
    found = score(transcripts_of(pairs))
    assert (found.words, found.substitutions, found.deletions, found.insertions) == (words, substitutions, deletions, insertions)
    assert found.wer == (substitutions + deletions + insertions) / words and found.normalizer == "none"
    assert found.wer_interval[0] <= found.wer <= found.wer_interval[1]


@pytest.mark.parametrize(
    "pairs, words, substitutions, deletions, insertions",
    [
        ([("THE COLOUR", "the color.")], 2, 0, 0, 0),
        ([("IT'S UM FINE", "IT IS FINE")], 3, 0, 0, 0),
        ([("TWENTY THREE CATS", "23 cats")], 2, 0, 0, 0),
        ([("FIVE SIX OH", "FIVE SIX NINE")], 1, 1, 0, 0),  # one number of three digits
        (
            [("UM HMM", "THE CAT"), ("THE CAT", "THE CAT")],
            2,
            0,
            0,
            2,
        ),  # the reference has only filler words: the hypothesis counts as inserted
        ([("UM HMM", "UH"), ("THE CAT", "CAT UM")], 2, 0, 1, 0),
        ([("THE CAT", "UM")], 2, 0, 2, 0),
    ],
)
def test_golden_after_whispers_normaliser(pairs: list[Pair], words: int, substitutions: int, deletions: int, insertions: int) -> None:
    found = score(transcripts_of(pairs), "whisper")
    assert (found.words, found.substitutions, found.deletions, found.insertions) == (words, substitutions, deletions, insertions)
    assert found.wer == (substitutions + deletions + insertions) / words and found.normalizer == "whisper"


WORDS = "THE CAT CAT'S COLOUR UM UH TWENTY THREE FIVE OH MR 5 %"
SENTENCES = st.lists(st.sampled_from(WORDS.split()), max_size=7).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SENTENCES.filter(bool), SENTENCES), min_size=1, max_size=6), st.sampled_from(["none", "whisper"]))
def test_the_counts_are_torchevals(pairs: list[Pair], normalizer: str) -> None:
    normalise = normaliser(normalizer)
    references, hypotheses = ([normalise(text) for text in side] for side in zip(*pairs, strict=True))
    assume(any(each.split() for each in references))
    found = score(transcripts_of(pairs), normalizer)
    metric = WordErrorRate()
    metric.update(hypotheses, references)
    assert float(metric.compute()) == pytest.approx(found.wer, rel=1e-6)
    assert found.words == sum(len(each.split()) for each in references)
    assert found.wer * found.words == pytest.approx(found.substitutions + found.deletions + found.insertions)
    assert found.insertions - found.deletions == sum(len(each.split()) for each in hypotheses) - found.words


def test_no_words_at_all_are_no_rate() -> None:
    with pytest.raises(AsrDeployError, match="no words after the normaliser whisper"):
        score(transcripts_of([("UM HMM", "THE CAT")]), "whisper")
    with pytest.raises(AsrDeployError, match="no words"):
        score([])


def test_counts_that_are_stored_decide_nothing() -> None:
    wrong = [each.model_copy(update={"substitutions": 3, "words": 9}) for each in transcripts_of(PAIRS)]
    assert score(wrong) == score(transcripts_of(PAIRS))


def test_an_evaluation_adds_up() -> None:
    transcripts = transcripts_of(PAIRS)
    made = make_evaluation(
        transcripts, timings_of(transcripts, 0.25), transcriber(), DataSet("digits", "test-clean", ()), threads=2, workers=3
    )
    assert (made.utterances, made.words, made.wer) == (3, 8, 0.5)
    assert (made.audio_seconds, made.compute_seconds, made.real_time_factor) == (6.0, 0.75, 0.125)
    assert (made.threads, made.workers, made.data, made.split, made.version) == (2, 3, "digits", "test-clean", 3)
    assert made.wer_interval == bootstrap_interval([0, 2, 2], [3, 4, 1]) and made.normalised is None
    assert "versions" in made.machine  # facts about this machine by default
    assert made.score == score(transcripts)
    asked = make_evaluation(
        transcripts,
        timings_of(transcripts),
        transcriber(),
        DataSet("digits", "dev", ()),
        threads=1,
        workers=1,
        normalizer="whisper",
        machine={"a": 1},
    )
    assert asked.normalised == score(transcripts, "whisper") and asked.wer == made.wer and asked.machine == {"a": 1}
    assert Evaluation.model_validate_json(asked.model_dump_json()) == asked


# Rescoring


def test_a_result_is_written_anew(tmp_path: Path) -> None:
    folder = tmp_path / "A"
    plain = write_evaluation(folder, PAIRS)
    lines = (folder / TRANSCRIPTS).read_bytes()
    whispered = rescore(folder, "whisper")
    assert whispered == plain.model_copy(update={"normalised": score(transcripts_of(PAIRS), "whisper")})
    assert read_evaluation(folder) == (whispered, transcripts_of(PAIRS))
    assert rescore(folder) == whispered == read_evaluation(folder)[0]  # the second score stays until it is removed
    assert rescore(folder, "none") == plain == read_evaluation(folder)[0]
    assert (folder / TRANSCRIPTS).read_bytes() == lines
    assert sorted(each.name for each in folder.iterdir()) == ["result.json", "times.jsonl", "transcripts.jsonl"]


def test_a_command_scores_several_runs(cli: Callable[..., Completed], tmp_path: Path) -> None:
    for name in "AB":
        write_evaluation(tmp_path / name, [*PAIRS, ("THE COLOUR", "the color")])
    done = cli("score", "A", "B", "--normalizer", "whisper", "--json", "out/scores.json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.count("60.00") == 2 and done.stdout.count("40.00") == 2 and done.stdout.count("after whisper") == 2
    runs = ScoredRuns.model_validate_json((tmp_path / "out" / "scores.json").read_text()).runs
    assert [str(each.folder) for each in runs] == ["A", "B"]
    for each in runs:
        assert each.result == read_evaluation(tmp_path / each.folder)[0]
        assert each.result.wer == 0.6 and each.result.normalised is not None and each.result.normalised.wer == 0.4
    again = cli("score", "A")
    assert again.stdout.count("after whisper") == 1 and read_evaluation(tmp_path / "A")[0] == runs[0].result
    assert "after" not in cli("score", "A", "--normalizer", "none").stdout and read_evaluation(tmp_path / "A")[0].normalised is None


def test_a_score_that_was_wrong_is_said(cli: Callable[..., Completed], tmp_path: Path) -> None:
    write_evaluation(tmp_path / "A", PAIRS, wer=0.1)
    done = cli("score", "A")
    assert (
        done.returncode == 0
        and done.stderr == "asrdeploy: A: the stored WER was 10.00%, but the transcripts give 50.00%. The result was updated.\n"
    )
    done = cli("score", "A")
    assert done.returncode == 0 and done.stderr == ""


def cut(folder: Path, lines: int) -> None:
    text = (folder / TRANSCRIPTS).read_text().splitlines(keepends=True)
    (folder / TRANSCRIPTS).write_text("".join(text[:lines]))


def changed(folder: Path, **changes: object) -> None:
    (folder / RESULT).write_text(json.dumps(json.loads((folder / RESULT).read_text()) | changes))


def in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / RESULT).unlink(), "A is not a finished evaluation: it has no result.json"),
    (lambda folder: (folder / TRANSCRIPTS).unlink(), "A has no transcripts in transcripts.jsonl"),
    (lambda folder: cut(folder, 0), "A has no transcripts"),
    (lambda folder: cut(folder, 2), "transcripts.jsonl has 2 transcripts, but result.json is of 3 utterances"),
    (lambda folder: changed(folder, utterances=2), "transcripts.jsonl has 3 transcripts, but result.json is of 2 utterances"),
    (lambda folder: changed(folder, version=1), "A/result.json is not a result of this version of asrdeploy (version: "),
    (lambda folder: changed(folder, colour="red"), "(colour: Extra inputs are not permitted)"),
    (lambda folder: (folder / RESULT).write_text("{}"), "(configuration: Field required)"),
    (lambda folder: (folder / RESULT).write_text("no JSON"), "(Invalid JSON"),
    (lambda folder: (folder / RESULT).write_bytes(b"\xff\xfe"), "A/result.json is not a result of this version"),
    (lambda folder: (folder / TRANSCRIPTS).write_text("{}\n" * 3), "Line 1 of A/transcripts.jsonl is not a transcript"),
    (lambda folder: in_its_place(folder / RESULT), "A/result.json is a folder, but a file belongs there. Rename or remove the folder"),
    (lambda folder: in_its_place(folder / TRANSCRIPTS), "A/transcripts.jsonl is a folder, but a file belongs there. Rename or remove"),
]


@pytest.mark.parametrize("damage, words", DAMAGES)
@pytest.mark.parametrize("command", [("score", "B", "A"), ("compare", "B", "A")], ids=["score", "compare"])
def test_what_cannot_be_scored(
    damage: Callable[[Path], object], words: str, command: tuple[str, ...], cli: Callable[..., Completed], tmp_path: Path
) -> None:
    for name in "AB":
        write_evaluation(tmp_path / name, PAIRS)
    damage(tmp_path / "A")
    files = {path: path.read_bytes() for path in tmp_path.glob("?/*") if path.is_file()}
    assert words in complaint(cli(*command, "--normalizer", "whisper"))
    if command[0] == "score":  # the other folder is scored, and nothing else changes
        good = tmp_path / "B" / RESULT
        assert read_evaluation(tmp_path / "B")[0].normalised == score(transcripts_of(PAIRS), "whisper")
        files[good] = good.read_bytes()
    assert files == {path: path.read_bytes() for path in tmp_path.glob("?/*") if path.is_file()}


def test_a_last_line_without_its_end_is_told_if_it_is_complete(cli: Callable[..., Completed], tmp_path: Path) -> None:
    write_evaluation(tmp_path / "A", PAIRS)
    path = tmp_path / "A" / TRANSCRIPTS
    content = path.read_bytes()
    for end, told in ((-2, 0), (-1, 1)):
        path.write_bytes(content[:end])
        done = cli("score", "A")
        assert "has 2 transcripts, but result.json is of 3 utterances" in done.stderr
        assert done.stderr.count("The last line of A/transcripts.jsonl has no line end and was left out. If it is complete, add") == told
    path.write_bytes(path.read_bytes() + b"\n")
    assert cli("score", "A").returncode == 0


def test_arguments_that_name_nothing(cli: Callable[..., Completed], tmp_path: Path) -> None:
    write_evaluation(tmp_path / "A", PAIRS)
    assert "nowhere is not a finished evaluation: it has no result.json" in complaint(cli("score", "A", "nowhere"))
    assert "A/result.json is not a finished evaluation" in complaint(cli("score", "A/result.json"))
    assert "Did you mean whisper?" in complaint(cli("score", "A", "--normalizer", "wisper"))
    assert "Cannot write A" in complaint(cli("score", "A", "--json", "A"))
    assert cli("score").returncode == 2
