"""Scores: WER and CER of transcripts, the result file of an evaluation, and rescoring without running the model."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.contract import Kind
from device_runner.errors import AsrDeployError, first_problem, printable
from device_runner.facts import machine_facts
from device_runner.files import write_record
from device_runner.transcripts import Timing, Transcript, read_transcripts
from toolchain.accuracy.metrics import ErrorCounts, bootstrap_interval, count_character_errors, count_errors
from toolchain.data.datasets import DataSet, LeftOut
from toolchain.data.normalisers import NONE, normaliser
from toolchain.data.scripts import unprintable, unspaced

if TYPE_CHECKING:
    from toolchain.accuracy.transcriber import Transcriber

RESULT, TRANSCRIPTS, TIMES = "result.json", "transcripts.jsonl", "times.jsonl"


class Score(BaseModel):
    """Word and character errors of a test set, WER and CER as fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalizer: str = Field(description="normaliser of references and hypotheses; none is the scenario's rule")
    words: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float = Field(description="corpus WER: substitutions, deletions and insertions divided by words")
    wer_interval: tuple[float, float] = Field(description="95 % interval by a bootstrap over utterances")
    characters: int = Field(description="characters of the references; spaces between words count, except in languages without them")
    character_errors: int
    cer: float = Field(description="corpus CER: character_errors divided by characters")
    cer_interval: tuple[float, float] = Field(description="95 % interval by a bootstrap over utterances")


class Evaluation(BaseModel):
    """Result of an accuracy run. Sizes are in bits, times in seconds, WERs are fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[3] = 3
    configuration: str
    model: str | None
    identity: str
    data: str
    split: str
    utterances: int
    left_out: tuple[LeftOut, ...] = Field(default=(), description="recordings that could not be transcribed and were left out")
    language: str | None = Field(default=None, description="language that decided upper case; null if nothing told it")
    unprintable: dict[str, int] = Field(default={}, description="characters of the references that no label prints, with their counts")
    main: Literal["wer", "cer"] = Field(default="wer", description="main figure: cer for languages without spaces between words")
    words: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float = Field(description="corpus WER: substitutions, deletions and insertions divided by words")
    wer_interval: tuple[float, float] = Field(description="95 % interval by a bootstrap over utterances")
    characters: int = Field(description="characters of the references; spaces between words count, except in languages without them")
    character_errors: int
    cer: float = Field(description="corpus CER: character_errors divided by characters")
    cer_interval: tuple[float, float] = Field(description="95 % interval by a bootstrap over utterances")
    normalised: Score | None = Field(default=None, description="score of the same transcripts after a normaliser, if one was given")
    size_bits: int = Field(description="bits transmitted to the UE")
    c_size: float | None = Field(description="size_bits divided by the bits of the anchor")
    artifact_bytes: int | None
    audio_seconds: float
    compute_seconds: float
    real_time_factor: float
    threads: int
    workers: int = Field(default=1, description="number of utterances transcribed at the same time")
    device: str = Field(default="local", description="device that ran it, as --device names it")
    kind: Kind = Field(default="host", description="times of the kinds emulated and emulator say nothing about a phone")
    machine: dict[str, Any] = Field(description="facts about the device, including package versions")

    @property
    def score(self) -> Score:
        """The scenario's score, without a normaliser."""
        return Score(normalizer=NONE, **{name: getattr(self, name) for name in Score.model_fields if name != "normalizer"})


class ScoredRun(BaseModel):
    """A rescored evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    result: Evaluation


class ScoredRuns(BaseModel):
    """Rescored evaluations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    runs: tuple[ScoredRun, ...]


def score(transcripts: Sequence[Transcript], normalizer: str = NONE, language: str | None = None) -> Score:
    """Compute WER and CER of transcripts. If torcheval is installed, its WER must agree.

    If the normaliser removes the whole reference of an utterance, all words of the hypothesis count as insertions.

    Args:
        transcripts: Transcripts with their references.
        normalizer: Name of the normaliser for references and hypotheses.
        language: ISO 639 code, which tells whether spaces count as characters (default: the script of the references).

    Raises:
        AsrDeployError: The normaliser is unknown, the references have no words, or torcheval's WER differs.
    """
    normalise = normaliser(normalizer)
    pairs = [(normalise(each.reference), normalise(each.hypothesis)) for each in transcripts]
    counts = [count_errors(*pair) for pair in pairs]
    spaced = not unspaced((reference for reference, _ in pairs), language)
    characters = [count_character_errors(*pair, spaced=spaced) for pair in pairs]
    wrong, written = sum(each for each, _ in characters), sum(each for _, each in characters)
    total = _sum(counts)
    if not total.words:
        raise AsrDeployError(
            f"The references have no words after the normaliser {normalizer}, so there is no WER. Choose another normaliser or test set."
        )
    wer = _torcheval_wer(pairs)
    if wer is not None and abs(wer - total.errors / total.words) > 1e-6 * max(1, wer):  # torcheval computes in float32
        raise AsrDeployError(
            f"The WER of torcheval ({wer:.6f}) and the counted errors ({total.errors} of {total.words} words) disagree. Please report this."
        )
    return Score(
        normalizer=normalizer,
        words=total.words,
        substitutions=total.substitutions,
        deletions=total.deletions,
        insertions=total.insertions,
        wer=total.errors / total.words,
        wer_interval=bootstrap_interval([each.errors for each in counts], [each.words for each in counts]),
        characters=written,
        character_errors=wrong,
        cer=wrong / written,
        cer_interval=bootstrap_interval([each for each, _ in characters], [each for _, each in characters]),
    )


def make_evaluation(
    transcripts: Sequence[Transcript],
    timings: Sequence[Timing],
    transcriber: "Transcriber",
    data: DataSet,
    *,
    language: str | None = None,
    threads: int,
    workers: int,
    normalizer: str = NONE,
    machine: dict[str, Any] | None = None,
) -> Evaluation:
    """Make the result of a whole run.

    Args:
        transcripts: Transcripts of all utterances.
        timings: Compute times of all utterances.
        transcriber: What transcribed them.
        data: The test set.
        language: ISO 639 code of the language; None if it is not known.
        threads: Number of threads of every worker.
        workers: Number of utterances that were transcribed at the same time.
        normalizer: Normaliser of a second score; ``none`` makes no second score.
        machine: Facts about the machine that ran it (default: this machine).

    Raises:
        AsrDeployError: See ``score``.
    """
    audio, compute = sum(each.audio_seconds for each in transcripts), sum(each.compute_seconds for each in timings)
    return Evaluation(
        configuration=transcriber.configuration,
        model=transcriber.case.name,
        identity=transcriber.identity,
        data=data.name,
        split=printable(data.split),
        left_out=data.left_out,
        **text_fields(transcripts, normalizer, language, transcriber.labels),
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
        AsrDeployError: The folder has no evaluation, or one that is unfinished or of another version.
    """
    if (folder / RESULT).is_dir():
        raise AsrDeployError(f"{folder / RESULT} is a folder, but a file belongs there. Rename or remove the folder, and evaluate again.")
    try:
        text = (folder / RESULT).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise AsrDeployError(
            f"{folder} is not a finished evaluation: it has no {RESULT}. Give the output folder of `asrdeploy evaluate`."
        ) from None
    transcripts = read_transcripts(folder / TRANSCRIPTS)
    try:
        result = Evaluation.model_validate_json(_with_characters(text, transcripts))
    except ValidationError as error:
        raise AsrDeployError(
            f"{folder / RESULT} is not a result of this version of asrdeploy ({first_problem(error)}). Evaluate again."
        ) from error
    if not transcripts:
        raise AsrDeployError(f"{folder} has no transcripts in {TRANSCRIPTS}. Evaluate again.")
    if len({each.id for each in transcripts}) < len(transcripts):
        raise AsrDeployError(f"{folder} has two transcripts of the same utterance. Delete the folder and evaluate again.")
    if len(transcripts) != result.utterances:
        raise AsrDeployError(
            f"{folder / TRANSCRIPTS} has {len(transcripts)} transcripts, but {RESULT} is of {result.utterances} utterances. Evaluate again."
        )
    return result, transcripts


def _with_characters(text: bytes, transcripts: Sequence[Transcript]) -> bytes:
    """Return a result of version 2, which had no CER, as one of this version; another text as it is."""
    try:
        earlier = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not (isinstance(earlier, dict) and earlier.get("version") == 2 and transcripts):
        return text
    normalised = earlier.get("normalised")
    normalizer = normalised.get("normalizer", NONE) if isinstance(normalised, dict) else NONE
    scored = _scores(transcripts, str(normalizer), None)
    scored["normalised"] = scored["normalised"] and scored["normalised"].model_dump()
    return json.dumps(earlier | scored | {"version": 3}).encode()


def rescore(folder: Path, normalizer: str | None = None) -> Evaluation:
    """Recompute the WER of a finished evaluation from its transcripts, and update its result. No model runs.

    Args:
        folder: Folder of the evaluation.
        normalizer: Normaliser of the second score; ``none`` removes the second score (default: the normaliser of the result).

    Raises:
        AsrDeployError: See ``read_evaluation`` and ``score``.
    """
    result, transcripts = read_evaluation(folder)
    # Not model_copy, which would not validate.
    kept = NONE if result.normalised is None else result.normalised.normalizer
    scored = Evaluation(**result.model_dump() | _scores(transcripts, kept if normalizer is None else normalizer, result.language))
    write_record(folder / RESULT, scored)
    return scored


def text_fields(transcripts: Sequence[Transcript], normalizer: str, language: str | None, labels: Sequence[str]) -> dict[str, Any]:
    """Return the fields of an evaluation that depend on transcripts, language and labels, but not on a run.

    Raises:
        AsrDeployError: See ``score``.
    """
    unsaid = unprintable((each.reference for each in transcripts), labels)
    return _scores(transcripts, normalizer, language) | {"language": language, "unprintable": unsaid}


def _scores(transcripts: Sequence[Transcript], normalizer: str, language: str | None) -> dict[str, Any]:
    """Return the fields of an evaluation that depend only on the transcripts and their language."""
    normalised = None if normalizer == NONE else score(transcripts, normalizer, language)
    plain = score(transcripts, language=language).model_dump(exclude={"normalizer"})
    main = "cer" if unspaced((each.reference for each in transcripts), language) else "wer"
    return {"utterances": len(transcripts), "main": main, **plain, "normalised": normalised}


def _sum(counts: Sequence[ErrorCounts]) -> ErrorCounts:
    return ErrorCounts(
        sum(each.substitutions for each in counts),
        sum(each.deletions for each in counts),
        sum(each.insertions for each in counts),
        sum(each.words for each in counts),
    )


def _torcheval_wer(pairs: Sequence[tuple[str, str]]) -> float | None:
    if find_spec("torcheval") is None:  # installed without the extra toolchain
        return None
    from torcheval.metrics import WordErrorRate

    metric = WordErrorRate()
    metric.update([hypothesis for _, hypothesis in pairs], [reference for reference, _ in pairs])
    return float(metric.compute())
