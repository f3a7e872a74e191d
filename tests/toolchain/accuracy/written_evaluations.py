"""Folders of finished evaluations that tests write without transcribing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device_runner.files import write_text
from device_runner.transcripts import Timing, Transcript, write_lines
from toolchain.accuracy.metrics import count_errors
from toolchain.accuracy.scoring import RESULT, TIMES, TRANSCRIPTS, Evaluation, make_evaluation
from toolchain.accuracy.transcriber import Transcriber
from toolchain.data.datasets import DataSet
from toolchain.models.test_cases import TEST_CASES

Pair = tuple[str, str]  # reference, hypothesis


def transcriber(configuration: str = "A") -> Transcriber:
    """A transcriber with a description only."""
    return Transcriber(
        configuration=configuration,
        case=TEST_CASES[0],
        identity="0" * 64,
        trained=True,
        labels=("-", "|", "A"),
        sample_rate=16_000,
        transmitted_bits=8_000,
        artifact_bytes=1_000,
        engine=None,
    )


def transcripts_of(pairs: Sequence[Pair] | Mapping[str, Pair]) -> list[Transcript]:
    """Return transcripts with given or numbered ids."""
    named = pairs if isinstance(pairs, Mapping) else {f"u{number:03}": pair for number, pair in enumerate(pairs)}
    return [
        Transcript(
            id=name,
            audio_seconds=2.0,
            reference=reference,
            hypothesis=hypothesis,
            substitutions=counts.substitutions,
            deletions=counts.deletions,
            insertions=counts.insertions,
            words=counts.words,
        )
        for name, (reference, hypothesis) in named.items()
        for counts in [count_errors(reference, hypothesis)]
    ]


def timings_of(transcripts: Sequence[Transcript], seconds: float = 0.5) -> list[Timing]:
    return [Timing(id=each.id, compute_seconds=seconds) for each in transcripts]


def write_evaluation(folder: Path, pairs: Sequence[Pair] | Mapping[str, Pair], **changes: Any) -> Evaluation:
    """Write a finished evaluation. ``changes`` replace fields of its result."""
    transcripts = transcripts_of(pairs)
    timings = timings_of(transcripts)
    made = make_evaluation(
        transcripts, timings, transcriber(folder.name), DataSet("digits", "test-clean", ()), threads=1, workers=1, machine={}
    )
    made = made.model_copy(update=changes)
    write_lines(folder / TRANSCRIPTS, transcripts)
    write_lines(folder / TIMES, timings)
    write_text(folder / RESULT, made.model_dump_json(indent=2) + "\n")
    return made
