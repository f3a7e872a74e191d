"""Readers of what devices and receivers get: audio files, artifacts, jobs, results, bitstreams."""

import hashlib
import io
import json
import math
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile
import torch

from device_runner.artifact import MANIFEST, Manifest, ModelFile, open_artifact
from device_runner.audio import check_audio, read_audio
from device_runner.bitstream.decoders import decode_bitstream
from device_runner.bitstream.format import CRC, MAGIC, PREFIX, VERSION, open_bitstream
from device_runner.contract import Audio, DeviceFacts, Heard, Job, Result, Timed, parse_line, read_job, read_lines, read_result
from scripts.fuzz.mutations import mutated_bytes, mutated_value
from scripts.fuzz.reader import MEGABYTE, Case, Reader, change_json, change_json_lines, changes
from toolchain.compression.codec import encode

RATE = 16_000
DIGEST = "0" * 64
JOB = hashlib.sha256(b"job").hexdigest()

# Formats and encodings of libsndfile that mono speech occurs in.
AUDIO_KINDS = (
    *(("WAV", each) for each in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
        ("NIST", "PCM_16"),
    ),
    *(("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("WAVEX", "PCM_16")),
)


def _audio(folder: Path) -> Sequence[Case]:
    time = np.arange(RATE // 5) / RATE
    samples = 0.3 * np.sin(2 * math.pi * 440 * time) * np.hanning(len(time))
    cases = []
    for kind, encoding in AUDIO_KINDS:
        for rate in (RATE, 8_000) if kind in ("WAV", "FLAC") and encoding == "PCM_16" else (RATE,):
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, rate, format=kind, subtype=encoding)
            cases.append({"recording": buffer.getvalue()})
    return cases


def _read_audio(folder: Path) -> None:
    checked = check_audio(folder / "recording", RATE)
    waveform = read_audio(folder / "recording", RATE)
    assert waveform.dtype == np.float32 and waveform.ndim == 1 and np.isfinite(waveform).all() and checked.seconds >= 0


def _artifact(folder: Path) -> Sequence[Case]:
    model = b"not a real model"
    manifest = Manifest(
        model="M",
        weights="bundled",
        trained=True,
        format="onnx",
        scheme="fp32",
        files=(ModelFile(name="model.onnx", bytes=len(model), sha256=hashlib.sha256(model).hexdigest()),),
        labels=("-", "|", "A"),
        sample_rate=RATE,
        normalised_waveform=False,
        parameters=10,
        minimum_samples=400,
        versions={"onnx": "1"},
    )
    return [{MANIFEST: manifest.model_dump_json(indent=1).encode(), "model.onnx": model}]


def _job(folder: Path) -> Sequence[Case]:
    job = Job(mode="latency", artifact=DIGEST, audio=(Audio(id="a", sha256=DIGEST), Audio(id="b", sha256=DIGEST)), warmup=1, repeats=3)
    return [{"job.json": job.model_dump_json().encode()}]


def _heard() -> tuple[Heard, ...]:
    return tuple(Heard(id=each, audio_seconds=1.0, hypothesis="ONE TWO", compute_seconds=0.1) for each in "ab")


def _timed() -> tuple[Timed, ...]:
    return (Timed(id="a", audio_seconds=1.0, samples=(0.1, 0.2)),)


def _result(folder: Path) -> Sequence[Case]:
    facts = DeviceFacts(kind="host", model="m", cpu="c", int8_exact=None, abi="x86_64", system="s", logical_cpus=2, memory_bytes=1)
    result = Result(job=JOB, runner="python", transcripts=_heard(), timings=_timed(), device=facts, valid=True, versions={})
    return [{"result.json": result.model_dump_json().encode()}]


def _lines(folder: Path) -> Sequence[Case]:
    lines = [json.dumps({"job": JOB}), *(each.model_dump_json() for each in (*_heard(), *_timed()))]
    return [{"result.jsonl": "".join(f"{each}\n" for each in lines).encode()}]


def _read_lines(folder: Path) -> None:
    path = folder / "result.jsonl"
    read_lines(path, JOB)
    for line in path.read_bytes().splitlines():
        parse_line(line)


@cache
def _bitstreams() -> tuple[bytes, ...]:
    """Return small bitstreams of all built-in codecs, and one of a custom network; together they have all kinds of records."""
    import toolchain.compression  # noqa: F401  (registers the codecs)

    generator = torch.Generator().manual_seed(0)
    state = {"layer.weight": torch.randn((6, 8), generator=generator), "layer.bias": torch.randn((6,), generator=generator)}
    base = {name: each + 0.01 * torch.randn(each.shape, generator=generator) for name, each in state.items()}
    settings: tuple[tuple[str, dict[str, Any]], ...] = (
        *(("fp16", {}), ("bf16", {}), ("prune", {"share": 0.5}), ("lowrank", {"share": 0.5}), ("palette", {"colours": 4})),
        *(("uniform", {"bits": 3, "scope": "group", "group": 4}), ("uniform", {"bits": 4, "scope": "tensor", "symmetric": False})),
        ("uniform", {"bits": 8}),
    )
    large = {"layer.weight": torch.randn((24, 40), generator=generator)}  # the codec sends smaller tensors in half precision
    trellises = [encode("ectcq", {"bits": bits, "states": states}, large) for bits, states in ((1.0, 8), (2.0, 16), (3.0, 64))]
    return (*(encode(name, parameters, state) for name, parameters in settings), encode("fp16", {}, state, base=base), *trellises)


def opened(bitstream: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Return the header of a valid bitstream as plain values, and its payloads."""
    _, _, length, _ = PREFIX.unpack(bitstream[: PREFIX.size])
    place = PREFIX.size + length
    header: dict[str, Any] = json.loads(zlib.decompress(bitstream[PREFIX.size : place]))
    payloads = []
    for row in header["records"]:
        payloads.append(bitstream[place : place + row[3]])
        place += row[3] + CRC.size
    return header, payloads


def sealed(header: bytes, payloads: Sequence[bytes]) -> bytes:
    """Return a bitstream with correct checksums, whatever its header says."""
    packed = zlib.compress(header, 1)
    body = PREFIX.pack(MAGIC, VERSION, len(packed), zlib.crc32(packed)) + packed
    body += b"".join(each + CRC.pack(zlib.crc32(each)) for each in payloads)
    return body + hashlib.sha256(body).digest()


KINDS = ("fp32", "fp16", "bf16", "uniform", "palette", "sparse", "factors", "trellis", "", "x")
SHAPES: tuple[list[int], ...] = (
    [],
    [0],
    [1],
    [48],
    [6, 8],
    [8, 6],
    [48, 1],
    [1, 48],
    [2, 3, 8],
    [2**40, 0],
    [0, 2**40],
    [2**31],
    [257, 1],
    [1] * 8,
)


def change_bitstream(rng: Random, bitstream: bytes) -> bytes:
    """Change the header or payloads of a bitstream and compute its checksums anew, or change its bytes."""
    if rng.random() < 0.1:
        return mutated_bytes(rng, bitstream)
    header, payloads = opened(bitstream)
    if rng.random() < 0.0005:  # a small header of a large tree
        part = rng.choice(("[],", "{},", '{"a":{}},', '"ab",', "1.5,", "12345678901,"))
        return sealed(f'{{"codec":"x","records":[],"parameters":{{"a":[{part * rng.choice((10**5, 10**6))}0]}}}}'.encode(), [])
    for _ in range(rng.randint(1, 2)):
        place, action = rng.randrange(len(payloads)), rng.randrange(6)
        row = header["records"][place]
        if action < 2:  # the bytes of a payload
            payloads[place] = mutated_bytes(rng, payloads[place])
            row[3] = len(payloads[place])
        elif action == 2 and isinstance(row[4], dict):  # a parameter of the decoder
            row[4] = mutated_value(rng, row[4], most=1)
        elif action == 3:
            row[2] = rng.choice((rng.choice(SHAPES), mutated_value(rng, row[2], most=1)))
        elif action == 4:
            row[1] = rng.choice(KINDS)
        elif isinstance(row[4], dict) and row[4]:
            key = rng.choice(list(row[4]))
            row[4][key] = rng.choice((row[4][key], rng.randint(-1, 70), rng.random(), 2 ** rng.randint(0, 33)))
    if rng.random() < 0.2:
        return sealed(change_json(rng, json.dumps(header).encode()), payloads)
    return sealed(json.dumps(header).encode(), payloads)


def _read_bitstream(folder: Path) -> None:
    with open_bitstream(folder / "b.asrb") as stream:
        header, state = decode_bitstream(stream, _base())
    for record in header.records:
        assert state[record.name].shape == record.shape and state[record.name].dtype == np.float32


@cache
def _base() -> dict[str, Any]:
    return {"layer.weight": np.zeros((6, 8), np.float32), "layer.bias": np.zeros(6, np.float32)}


READERS = (
    Reader(
        "audio",
        "recordings in all formats of libsndfile",
        _audio,
        changes({"": mutated_bytes}),
        _read_audio,
        memory=384 * MEGABYTE,
        examples=150,
    ),
    Reader(
        "artifact",
        "manifest.json of an artifact",
        _artifact,
        changes({MANIFEST: change_json, "onnx": mutated_bytes}),
        lambda folder: open_artifact(folder),
    ),
    Reader("job", "job files of devices", _job, changes({"": change_json}), lambda folder: read_job(folder / "job.json")),
    Reader("result", "result files of devices", _result, changes({"": change_json}), lambda folder: read_result(folder / "result.json")),
    Reader("lines", "lines that devices send while a job runs", _lines, changes({"": change_json_lines}), _read_lines),
    Reader(
        "bitstream",
        "bitstreams (.asrb) with all kinds of records",
        lambda folder: [{"b.asrb": each} for each in _bitstreams()],
        changes({"": change_bitstream}),
        _read_bitstream,
        memory=512 * MEGABYTE,
        examples=300,
    ),
)
