"""Scores: the word error rate of transcripts, the file of a finished evaluation, and both again without inference."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.contract import Kind
from device_runner.errors import AsrDeployError, first_problem
from device_runner.facts import machine_facts
from device_runner.files import write_record
from device_runner.transcripts import Timing, Transcript, read_transcripts
from toolchain.accuracy.metrics import ErrorCounts, bootstrap_interval, count_errors
from toolchain.data.normalisers import NONE, normaliser

if TYPE_CHECKING:
    from toolchain.accuracy.transcriber import Transcriber

RESULT, TRANSCRIPTS, TIMES = "result.json", "transcripts.jsonl", "times.jsonl"


class Score(BaseModel):
    """Word errors of a set and the rate that they give, as a fraction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalizer: str = Field(description="what both sides went through before words were counted; none: as they are, the scenario's")
    words: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float = Field(
        description="corpus word error rate: the counts above over the words; torcheval's, where it is installed, is the same"
    )
    wer_interval: tuple[float, float] = Field(description="95 % bootstrap over utterances")


class Evaluation(BaseModel):
    """The result of an accuracy run. Sizes in bits, times in seconds, word error rates as fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = 2
    configuration: str
    model: str | None
    identity: str
    data: str
    split: str
    utterances: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float = Field(
        description="corpus word error rate: the counts above over the words; torcheval's, where it is installed, is the same"
    )
    wer_interval: tuple[float, float] = Field(description="95 % bootstrap over utterances")
    normalised: Score | None = Field(
        default=None, description="the score of the same transcripts after a normaliser, where one was asked for"
    )
    size_bits: int = Field(description="bits transmitted to the UE")
    c_size: float | None = Field(description="size_bits over the bits of the anchor")
    artifact_bytes: int | None
    audio_seconds: float
    compute_seconds: float
    real_time_factor: float
    threads: int
    workers: int = Field(default=1, description="utterances heard at the same time")
    device: str = Field(default="local", description="what ran it, as --device names it")
    kind: Kind = Field(default="host", description="the times of emulated and emulator say nothing about a phone")
    machine: dict[str, Any] = Field(description="facts about the device, versions included")

    @property
    def score(self) -> Score:
        """The scenario's score: of the texts as they are."""
        return Score(normalizer=NONE, **{name: getattr(self, name) for name in Score.model_fields if name != "normalizer"})


class ScoredRun(BaseModel):
    """An evaluation whose errors were counted anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    result: Evaluation


class ScoredRuns(BaseModel):
    """Evaluations whose errors were counted anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    runs: tuple[ScoredRun, ...]


def score(transcripts: Sequence[Transcript], normalizer: str = NONE) -> Score:
    """Count the errors of transcripts anew. Where torcheval is installed (it needs torch) its rate is compared with ours.

    An utterance whose reference normalises to nothing has no words, and what was heard in it counts as inserted.

    Raises:
        AsrDeployError: there is no such normaliser, there is no word to be heard, or the two rates disagree.
    """
    normalise = normaliser(normalizer)
    pairs = [(normalise(each.reference), normalise(each.hypothesis)) for each in transcripts]
    counts = [count_errors(*pair) for pair in pairs]
    total = _sum(counts)
    if not total.words:
        raise AsrDeployError(f"The references have no words after the normaliser {normalizer}: there is no word error rate of them.")
    wer = _torcheval_wer(pairs)
    if wer is not None and abs(wer - total.errors / total.words) > 1e-6 * max(1, wer):  # torcheval's is in float32
        raise AsrDeployError(
            f"torcheval's word error rate {wer:.6f} and our counts {total.errors}/{total.words} disagree; please report it."
        )
    return Score(
        normalizer=normalizer,
        words=total.words,
        substitutions=total.substitutions,
        deletions=total.deletions,
        insertions=total.insertions,
        wer=total.errors / total.words,
        wer_interval=bootstrap_interval([each.errors for each in counts], [each.words for each in counts]),
    )


def make_evaluation(
    transcripts: Sequence[Transcript],
    timings: Sequence[Timing],
    transcriber: "Transcriber",
    data_name: str,
    split: str,
    *,
    threads: int,
    workers: int,
    normalizer: str = NONE,
    machine: dict[str, Any] | None = None,
) -> Evaluation:
    """Score the transcripts of a whole run.

    Args:
        normalizer: a second score is made after it; ``none``: there is none.
        machine: facts about what ran it; None: this machine's.

    Raises:
        AsrDeployError: see ``score``.
    """
    audio, compute = sum(each.audio_seconds for each in transcripts), sum(each.compute_seconds for each in timings)
    return Evaluation(
        configuration=transcriber.configuration,
        model=transcriber.case.name,
        identity=transcriber.identity,
        data=data_name,
        split=split,
        **_scores(transcripts, normalizer),
        size_bits=transcriber.transmitted_bits,
        c_size=transcriber.transmitted_bits / transcriber.case.anchor.size_bits,
        artifact_bytes=transcriber.artifact_bytes,
        audio_seconds=audio,
        compute_seconds=compute,
        real_time_factor=compute / audio,
        threads=threads,
        workers=workers,
        machine=machine_facts() if machine is None else machine,
    )


def read_evaluation(folder: Path) -> tuple[Evaluation, list[Transcript]]:
    """Return the result and the transcripts of a finished evaluation.

    Raises:
        AsrDeployError: the folder holds no evaluation, one that is not finished, or one of another version.
    """
    try:
        text = (folder / RESULT).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise AsrDeployError(f"{folder} holds no {RESULT}: it is no finished evaluation; make one with `asrdeploy evaluate`.") from None
    try:
        result = Evaluation.model_validate_json(text)
    except ValidationError as error:
        raise AsrDeployError(
            f"{folder / RESULT} is no evaluation's result of this version ({first_problem(error)}); evaluate again."
        ) from error
    transcripts = read_transcripts(folder / TRANSCRIPTS)
    if not transcripts:
        raise AsrDeployError(f"{folder} holds no transcripts ({TRANSCRIPTS}): nothing can be scored; evaluate again.")
    if len(transcripts) != result.utterances:
        raise AsrDeployError(
            f"{folder / TRANSCRIPTS} has {len(transcripts)} transcripts, {RESULT} is of {result.utterances} utterances; evaluate again."
        )
    return result, transcripts


def rescore(folder: Path, normalizer: str = NONE) -> Evaluation:
    """Count the errors of a finished evaluation anew from what was said and heard, and write its result anew; no model is run.

    Raises:
        AsrDeployError: see ``read_evaluation`` and ``score``.
    """
    result, transcripts = read_evaluation(folder)
    # Through the constructor: what a file of results holds is valid.
    scored = Evaluation(**result.model_dump() | _scores(transcripts, normalizer))
    write_record(folder / RESULT, scored)
    return scored


def _scores(transcripts: Sequence[Transcript], normalizer: str) -> dict[str, Any]:
    """Return the fields of an evaluation that follow from the texts alone."""
    normalised = None if normalizer == NONE else score(transcripts, normalizer)
    plain = score(transcripts).model_dump(exclude={"normalizer"})
    return {"utterances": len(transcripts), **plain, "normalised": normalised}


def _sum(counts: Sequence[ErrorCounts]) -> ErrorCounts:
    return ErrorCounts(
        sum(each.substitutions for each in counts),
        sum(each.deletions for each in counts),
        sum(each.insertions for each in counts),
        sum(each.words for each in counts),
    )


def _torcheval_wer(pairs: Sequence[tuple[str, str]]) -> float | None:
    if find_spec("torcheval") is None:  # an install without the toolchain, which counts the same
        return None
    from torcheval.metrics import WordErrorRate

    metric = WordErrorRate()
    metric.update([hypothesis for _, hypothesis in pairs], [reference for reference, _ in pairs])
    return float(metric.compute())
