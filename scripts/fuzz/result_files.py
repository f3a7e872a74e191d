"""Readers of test sets, results, sweep files, job files and archives."""

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from device_runner.transcripts import Timing, Transcript, read_timings
from scripts.fuzz.mutations import HUGE, NAMES, mutated_bytes
from scripts.fuzz.reader import MEGABYTE, Case, Reader, change_json, change_json_lines, change_text_lines, change_toml, changes
from toolchain.accuracy.comparison import compare_runs
from toolchain.accuracy.run_folder import SETTINGS, earlier_settings
from toolchain.accuracy.scoring import RESULT, TIMES, TRANSCRIPTS, make_evaluation, read_evaluation, rescore
from toolchain.accuracy.transcriber import Transcriber
from toolchain.data.datasets import DataSet, read_folder
from toolchain.data.download import SMALL, UNPACKED_PER_BYTE, unpack_tar
from toolchain.models.test_cases import TEST_CASES
from toolchain.scenario.job_limits import read_job_file
from toolchain.scenario.points import make_curve, make_point, read_curve, write_curve
from toolchain.scenario.sweep_file import moved, read_sweep_file

TOP = Path(__file__).parent.parent.parent


def _evaluation() -> Case:
    pairs = (("ONE TWO THREE", "ONE TO THREE"), ("FOUR", ""), ("FÜNF SECHS", "FÜNF SECHS SIEBEN"))
    transcripts = [
        Transcript(
            id=f"1-2-{number:04}",
            audio_seconds=2.0,
            reference=said,
            hypothesis=heard,
            substitutions=counts[0],
            deletions=counts[1],
            insertions=counts[2],
            words=len(said.split()),
            audio_sha256="0" * 64,
        )
        for number, ((said, heard), counts) in enumerate(zip(pairs, ((1, 0, 0), (0, 1, 0), (0, 0, 1)), strict=True))
    ]
    timings = [Timing(id=each.id, compute_seconds=0.5) for each in transcripts]
    transcriber = Transcriber(
        configuration="A",
        case=TEST_CASES[0],
        identity="0" * 64,
        trained=True,
        labels=("-", "|", "A"),
        sample_rate=16_000,
        transmitted_bits=8_000,
        artifact_bytes=1_000,
        engine=None,
    )
    made = make_evaluation(
        transcripts, timings, transcriber, DataSet("digits", "test-clean", ()), threads=1, workers=1, machine={"cpu": "x"}
    )
    return {
        RESULT: made.model_dump_json(indent=2).encode(),
        TRANSCRIPTS: "".join(each.model_dump_json() + "\n" for each in transcripts).encode(),
        TIMES: "".join(each.model_dump_json() + "\n" for each in timings).encode(),
        SETTINGS: b'{"identity": "0", "data": "digits", "threads": 1, "version": 3}\n',
    }


def _evaluations(folder: Path) -> Sequence[Case]:
    made = _evaluation()
    return [{f"{name}/{file}": content for name in "ab" for file, content in made.items()}]


def _read_evaluations(folder: Path) -> None:
    for each in (folder / "a", folder / "b"):
        read_timings(each / TIMES)
        earlier_settings(each)
    compare_runs(folder / "a", folder / "b", "none")
    rescore(folder / "a")
    read_evaluation(folder / "a")


def _curve(folder: Path) -> Sequence[Case]:
    made = _evaluation()
    for name in ("anchor", "point"):
        (folder / name).mkdir()
        for file, content in made.items():
            (folder / name / file).write_bytes(content)
    result, _ = read_evaluation(folder / "anchor")
    points = [make_point(name, "bitstream", result, folder / "point", TEST_CASES[0], result.wer, name) for name in "xy"]
    write_curve(make_curve(TEST_CASES[0], result, folder / "anchor", points), folder)
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv"]
    return [{str(path.relative_to(folder)): path.read_bytes() for path in files}]


def _test_set(folder: Path) -> Sequence[Case]:
    lines = "1-2-0000 ONE TWO\n1-2-0001 ÜBER Straße\n1-2-0002 İI ıi\n"
    recordings = {f"test/1/2/1-2-{number:04}.wav": b"RIFF" for number in range(3)}
    return [{"test/1/2/1-2.trans.txt": lines.encode()} | recordings]


def blocks(page: str, first: str) -> list[str]:
    """Return the TOML blocks of a page that contain a table."""
    return [part.split("```")[0] for part in (TOP / "docs" / page).read_text().split("```toml\n")[1:] if first in part.split("```")[0]]


def _sweeps(folder: Path) -> Sequence[Case]:
    return [{"sweep.toml": each.encode()} for each in blocks("codecs.md", "[[method]]")]


def _read_sweep(folder: Path) -> None:
    for method in read_sweep_file(folder / "sweep.toml").method:
        moved(method)


def _jobs(folder: Path) -> Sequence[Case]:
    return [{"jobs.toml": each.encode()} for each in blocks("ci.md", "[[job]]")]


def _archives(folder: Path) -> Sequence[Case]:
    cases = []
    for mode in ("w", "w:gz", "w:xz", "w:bz2"):
        for layout in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode=mode, format=layout) as tar:
                for name, content in (("S/1/2/1-2.trans.txt", b"1-2-0000 ONE\n"), ("S/1/2/1-2-0000.flac", b"fLaC" * 50), ("S/ü" * 40, b"")):
                    member = tarfile.TarInfo(name[:99] if layout == tarfile.USTAR_FORMAT else name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            cases.append({"archive": buffer.getvalue()})
    return cases


MEMBER_KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
MORE_KINDS = (tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, b"V", b"\xff")


def change_tar(rng: Random, data: bytes) -> bytes:
    """Change members of a tar archive and write it anew, or change its bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, data)
    buffer = io.BytesIO()
    layout = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=buffer, mode=rng.choice(("w", "w:gz")), format=layout) as tar:
        for member in old.getmembers():
            source = old.extractfile(member)
            content = source.read() if source else b""
            if rng.random() < 0.5:
                content = _change_member(rng, member, content)
            for _ in range(rng.choice((1, 1, 1, 2))):
                try:
                    tar.addfile(member, io.BytesIO(content))
                except (ValueError, OSError, UnicodeError, OverflowError):  # the module writes no such member
                    return mutated_bytes(rng, data)
    found = buffer.getvalue()
    return mutated_bytes(rng, found) if rng.random() < 0.3 else found


def _change_member(rng: Random, member: tarfile.TarInfo, content: bytes) -> bytes:
    action = rng.randrange(7)
    if action == 0:
        member.name = rng.choice((*NAMES, "S", "S/1", "x/" * 300 + "x", "x\x00y", "\udcff", "S/../../x")) or "x"
    elif action == 1:
        member.type = rng.choice((*MEMBER_KINDS, *MORE_KINDS))
        member.linkname = rng.choice(("../../x", "/etc/passwd", "S/1/2/1-2.trans.txt", ""))
    elif action == 2:
        member.mtime = rng.choice((*HUGE, float("nan"), float("inf"), 0.5))
    elif action == 3:
        member.mode = rng.choice((0, 0o777, 0o7777, 0o100, 2**32))
    elif action == 4:
        content = b"\0" * rng.choice((1, 513, MEGABYTE, MEGABYTE, (80 * MEGABYTE if rng.random() < 0.05 else 5)))
    elif action == 5:
        keys = (
            "path",
            "size",
            "mtime",
            "linkpath",
            "GNU.sparse.map",
            "GNU.sparse.size",
            "GNU.sparse.realsize",
            "GNU.sparse.major",
            "uid",
            "hdrcharset",
        )
        member.pax_headers = {rng.choice(keys): rng.choice((*NAMES, "1e999", "-1", "nan", "9" * 30, "0,1", "1", "BINARY", "9" * 5000))}
    else:
        member.uid = rng.choice((-1, 2**21, 2**31, 2**40))
    member.size = len(content)
    return content


def _read_archive(folder: Path) -> None:
    target, sentinel = folder / "into" / "out", folder / "into" / "sentinel"
    sentinel.parent.mkdir()
    sentinel.write_bytes(b"")
    archive = folder / "archive"
    try:
        unpack_tar(archive, target)
    finally:
        assert {each.name for each in folder.iterdir()} == {"into", "archive"}, "it wrote next to the target"
        assert {each.name for each in sentinel.parent.iterdir()} <= {"out", "sentinel"}, "it wrote next to the target"
        files = [path for path in target.rglob("*") if path.is_file() or path.is_symlink()]
        assert not any(map(os.path.islink, files)), "it made a link"
        assert sum(each.stat().st_size for each in files) <= UNPACKED_PER_BYTE * archive.stat().st_size + SMALL, "it unpacked a bomb"


EVALUATION_CHANGES = {".jsonl": change_json_lines, ".json": change_json}

READERS = (
    Reader(
        "test-set",
        "transcript files of LibriSpeech",
        _test_set,
        changes({".txt": change_text_lines}),
        lambda folder: read_folder(folder, "test", "x"),
    ),
    Reader(
        "evaluation",
        "result.json, transcripts.jsonl, times.jsonl, settings.json",
        _evaluations,
        changes(EVALUATION_CHANGES),
        _read_evaluations,
    ),
    Reader("curve", "points.json of a sweep", _curve, changes({"points.json": change_json}), lambda folder: read_curve(folder)),
    Reader("sweep", "sweep files", _sweeps, changes({"": change_toml}), _read_sweep),
    Reader(
        "test-jobs", "job files of asrdeploy test", _jobs, changes({"": change_toml}), lambda folder: read_job_file(folder / "jobs.toml")
    ),
    Reader("archive", "tar archives of data sets", _archives, changes({"": change_tar}), _read_archive),
)
