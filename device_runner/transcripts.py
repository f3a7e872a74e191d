"""Transcripts and timings as JSONL files with one line per utterance, from which WER can be computed without running the model.

They are separate files, because transcripts are the same in every run of a model, while times are not.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.errors import AsrDeployError, say_once
from device_runner.files import write_text


class Transcript(BaseModel):
    """Reference, hypothesis and error counts of one utterance."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str
    audio_seconds: Annotated[float, Field(gt=0)]
    reference: str
    hypothesis: str
    substitutions: Annotated[int, Field(ge=0)]
    deletions: Annotated[int, Field(ge=0)]
    insertions: Annotated[int, Field(ge=0)]
    words: Annotated[int, Field(gt=0)]
    audio_sha256: str | None = Field(default=None, description="digest of the recording's file")

    @property
    def errors(self) -> int:
        """Number of substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions


class Timing(BaseModel):
    """Time to transcribe one utterance in seconds, without reading the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str
    compute_seconds: Annotated[float, Field(ge=0)]


Line = TypeVar("Line", Transcript, Timing)


def read_transcripts(path: Path) -> list[Transcript]:
    """Read transcripts and ignore a last line without a line end, which may be incomplete. If it is complete, a warning names the file.

    Args:
        path: File of transcripts.

    Returns:
        The transcripts, or an empty list if the file does not exist.

    Raises:
        AsrDeployError: If a line before the last is not a transcript.
    """
    return _read(path, Transcript, "a transcript")


def read_timings(path: Path) -> list[Timing]:
    """Read timings in the same way as ``read_transcripts``."""
    return _read(path, Timing, "a timing")


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write transcripts or timings and replace an existing file."""
    write_text(path, "".join(each.model_dump_json() + "\n" for each in lines))


def _read(path: Path, kind: type[Line], what: str) -> list[Line]:
    if not path.exists():
        return []
    if path.is_dir():
        raise AsrDeployError(f"{path} is a folder, but a file belongs there. Rename or remove the folder, and repeat the command.")
    lines = path.read_bytes().split(b"\n")  # bytes, because an incomplete line may end within a character
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise AsrDeployError(f"Line {number} of {path} is not {what}. Delete the file and repeat the evaluation.") from error
    if _is_whole(lines[-1], kind):
        say_once(f"The last line of {path} has no line end and was left out. If it is complete, add a line end and repeat the command.")
    return found


def _is_whole(line: bytes, kind: type[Line]) -> bool:
    """Return whether a last line without its end is complete, as after an editor; a killed process leaves a part of one."""
    try:
        kind.model_validate_json(line)
    except ValidationError:
        return False
    return True
