"""Transcripts and timings: JSONL, a line an utterance; scoring can be repeated without inference.

They are two files because transcripts are the same wherever and however often a model is run, and times are not.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.errors import AsrDeployError
from device_runner.files import write_text


class Transcript(BaseModel):
    """One utterance as it was heard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    audio_seconds: Annotated[float, Field(gt=0)]
    reference: str
    hypothesis: str
    substitutions: Annotated[int, Field(ge=0)]
    deletions: Annotated[int, Field(ge=0)]
    insertions: Annotated[int, Field(ge=0)]
    words: Annotated[int, Field(gt=0)]

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions


class Timing(BaseModel):
    """How long one utterance took to be heard, in seconds; reading it is not in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    compute_seconds: Annotated[float, Field(ge=0)]


Line = TypeVar("Line", Transcript, Timing)


def read_transcripts(path: Path) -> list[Transcript]:
    """Read transcripts; none where there is no file. A last line that was cut off while it was written is left out.

    Raises:
        AsrDeployError: a line before the last is not a transcript.
    """
    return _read(path, Transcript, "a transcript")


def read_timings(path: Path) -> list[Timing]:
    """Read timings; see ``read_transcripts``."""
    return _read(path, Timing, "a timing")


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Replace a file of transcripts or timings."""
    write_text(path, "".join(each.model_dump_json() + "\n" for each in lines))


def _read(path: Path, kind: type[Line], what: str) -> list[Line]:
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")  # not as text: the cut may go through a character
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise AsrDeployError(f"{path}, line {number} is not {what}: remove the file and evaluate again.") from error
    return found
