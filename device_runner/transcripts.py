"""Transcripts: JSONL, a line an utterance; scoring can be repeated without inference."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.errors import AsrDeployError
from device_runner.files import write_text


class Transcript(BaseModel):
    """One utterance as it was heard. Times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    audio_seconds: Annotated[float, Field(gt=0)]
    reference: str
    hypothesis: str
    substitutions: Annotated[int, Field(ge=0)]
    deletions: Annotated[int, Field(ge=0)]
    insertions: Annotated[int, Field(ge=0)]
    words: Annotated[int, Field(gt=0)]
    compute_seconds: Annotated[float, Field(ge=0)]

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions


def append_transcript(path: Path, transcript: Transcript) -> None:
    """Append a line; a run that is killed keeps every line before."""
    with path.open("a", encoding="utf-8") as file:
        file.write(transcript.model_dump_json() + "\n")


def read_transcripts(path: Path) -> list[Transcript]:
    """Read transcripts; a last line that was cut off while it was written is left out.

    Raises:
        AsrDeployError: a line before the last is not a transcript.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")  # not as text: the cut may go through a character
    whole, _cut = lines[:-1], lines[-1]
    transcripts = []
    for number, line in enumerate(whole, 1):
        try:
            transcripts.append(Transcript.model_validate(json.loads(line)))
        except (ValueError, ValidationError) as error:
            raise AsrDeployError(f"{path}, line {number} is not a transcript: remove the file and evaluate again.") from error
    return transcripts


def rewrite_transcripts(path: Path, transcripts: Iterable[Transcript]) -> None:
    """Replace the file's lines, as after a cut line was found at its end."""
    write_text(path, "".join(transcript.model_dump_json() + "\n" for transcript in transcripts))
