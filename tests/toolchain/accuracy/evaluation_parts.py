"""Helpers for tests of accuracy runs: a counting engine, the transcripts of a folder, a folder of speech."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from device_runner.engines import Engine
from device_runner.transcripts import Transcript, read_transcripts
from toolchain.accuracy.scoring import TRANSCRIPTS
from toolchain.accuracy.transcriber import Transcriber
from toolchain.data.datasets import DataSet


class Counting:
    """An engine that counts its runs and passes them to a real engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runs = 0

    def logits(self, waveform: np.ndarray) -> np.ndarray:
        self.runs += 1
        return self.engine.logits(waveform)


def counted(transcriber: Transcriber) -> tuple[Transcriber, Counting]:
    engine = Counting(transcriber.engine)
    return replace(transcriber, engine=engine), engine


def transcripts(folder: Path) -> list[Transcript]:
    return read_transcripts(folder / TRANSCRIPTS)


def speech_folder(data: DataSet, folder: Path) -> Path:
    """A folder in LibriSpeech layout with two bundled utterances, which a test may change."""
    chapter = folder / "test-clean" / "101" / "1"
    chapter.mkdir(parents=True)
    for each in data.utterances[:2]:
        shutil.copy(each.path, chapter)
    (chapter / "101-1.trans.txt").write_text("".join(f"{each.id} {each.reference}\n" for each in data.utterances[:2]))
    return folder
