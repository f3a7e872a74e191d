"""Readers of other people's data sets: tables, JSON lines, Kaldi directories."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from scripts.fuzz.mutations import mutated_bytes
from scripts.fuzz.reader import Case, Reader, change_json_line, change_text_lines, changes
from toolchain.data.datasets import open_data


def _recording() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(160, np.float32), 16_000, format="WAV")
    return buffer.getvalue()


def _tables(folder: Path) -> Sequence[Case]:
    audio = {"a.wav": _recording(), "clips/b.wav": _recording()}
    return [
        audio | {"metadata.csv": b'file_name,transcription,offset,duration\r\na.wav,"one, two",0,0.005\r\nb.wav,three,,\r\n'},
        audio | {"metadata.csv": b"text;path\none;a.wav\n"},
        audio | {"test.tsv": b'client_id\tpath\tsentence\nx\tb.wav\the "said\ny\ta.wav\tone\n'},
    ]


def _manifests(folder: Path) -> Sequence[Case]:
    rows = (
        {"audio_filepath": "a.wav", "text": "one", "offset": 0.001, "duration": 0.005},
        {"audio_filepath": "b.wav", "text": "two", "duration": 0.01},
    )
    lines = "".join(json.dumps(each) + "\n" for each in rows).encode()
    return [{"a.wav": _recording(), "b.wav": _recording(), name: lines} for name in ("metadata.jsonl", "test_manifest.json")]


def _kaldi(folder: Path) -> Sequence[Case]:
    audio: Case = {"a.wav": _recording(), "text": b"u1 one two\nu2 three\n"}
    return [
        audio | {"wav.scp": b"r1 a.wav\n", "segments": b"u1 r1 0.0 0.005\nu2 r1 0.005 -1 0\n"},
        audio | {"wav.scp": b"u1 a.wav\nu2 a.wav\n"},
    ]


def _read(folder: Path) -> None:
    found = open_data(str(folder))
    assert len({each.id for each in found.utterances}) == len(found.utterances)
    assert all(each.path.is_file() and each.reference and each.start >= 0 for each in found.utterances)
    assert all(each.reason.endswith(".") for each in found.bad)


def _change_manifest(rng: Random, data: bytes) -> bytes:
    return mutated_bytes(rng, data) if rng.random() < 0.3 else b"\n".join(change_json_line(rng, each) for each in data.splitlines())


READERS = (
    Reader("tables", "CSV and TSV tables of recordings", _tables, changes({".csv": change_text_lines, ".tsv": mutated_bytes}), _read),
    Reader("json-lines", "JSON lines of recordings", _manifests, changes({".jsonl": _change_manifest, ".json": _change_manifest}), _read),
    Reader(
        "kaldi",
        "Kaldi's data directories",
        _kaldi,
        changes({"wav.scp": change_text_lines, "text": change_text_lines, "segments": change_text_lines}),
        _read,
    ),
)
