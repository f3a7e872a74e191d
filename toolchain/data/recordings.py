"""Checks the recordings of a test set before anything runs, so that a bad one does not end a run of hours at its last utterance."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from device_runner.audio import CheckedAudio, Part, check_audio
from device_runner.decoding import named, part_digest
from device_runner.errors import LONGEST_MESSAGE, AsrDeployError, say_once
from device_runner.facts import usable_cpus
from device_runner.files import sha256_of, shown
from toolchain.data.datasets import DataSet, LeftOut, Utterance

REMARKED = 5  # recordings named in a warning
logger = logging.getLogger("asrdeploy")

OnChecked = Callable[[Utterance], None]


@dataclass(frozen=True)
class Needs:
    """What a model requires of a recording.

    Args:
        sample_rate: Sample rate of the model, in hertz.
        shortest: Smallest number of samples, which gives one frame.
        longest: Largest number of samples; None if unlimited.
    """

    sample_rate: int
    shortest: int
    longest: int | None = None


@dataclass(frozen=True)
class Checked:
    """A test set whose recordings can all be transcribed.

    Args:
        data: The test set. Recordings that were left out are in ``data.left_out``.
        digests: SHA-256 of every recording's file, by id.
    """

    data: DataSet
    digests: dict[str, str]


def check_recordings(data: DataSet, needs: Needs, *, skip_bad: bool = False, checked: OnChecked = lambda utterance: None) -> Checked:
    """Read all recordings of a test set once, and refuse or leave out those that cannot be transcribed.

    Recordings that were checked before in this process and have not changed are not read again. Peculiar recordings (silent, clipped)
    are named in one warning.

    Args:
        data: The test set.
        needs: What the model requires.
        skip_bad: Leave bad recordings out, and record them in ``left_out`` of the set, instead of raising an error.
        checked: Called for every utterance after its check.

    Raises:
        AsrDeployError: Recordings cannot be read or are too short or too long. All of them are named. With ``skip_bad``: only if
            none is left.
    """
    found: dict[str, CheckedAudio] = {}
    bad: list[LeftOut] = list(data.bad)
    with ThreadPoolExecutor(usable_cpus()) as threads:
        for utterance, outcome in zip(data.utterances, threads.map(partial(_outcome, needs=needs), data.utterances), strict=True):
            if isinstance(outcome, CheckedAudio):
                found[utterance.id] = outcome
            else:
                bad.append(LeftOut(utterance.id, outcome))
            checked(utterance)
    if bad and not (skip_bad and found):
        raise AsrDeployError(_refusal(data, bad))
    _remark({named(each.path, each.part): remark for each in data.utterances if each.id in found and (remark := found[each.id].remark)})
    kept = tuple(each for each in data.utterances if each.id in found)
    return Checked(
        replace(data, utterances=kept, left_out=(*data.left_out, *bad), bad=()), {key: each.sha256 for key, each in found.items()}
    )


def check_unchanged(utterance: Utterance, digest: str) -> None:
    """Raise AsrDeployError if a recording is not the one that was checked, so that its transcript is of another recording.

    Args:
        utterance: The utterance, after it was transcribed.
        digest: SHA-256 of its recording from the check.
    """
    try:
        status = utterance.path.stat()
        found = _file_digest(utterance.path, status.st_size, status.st_mtime_ns)
    except OSError:
        found = ""
    if digest not in (found, part_digest(found, utterance.part)):
        raise AsrDeployError(f"{shown(utterance.path)} was changed during the evaluation. Repeat the command.")


@lru_cache(maxsize=16)
def _file_digest(path: Path, size: int, modified: int) -> str:
    """Return the SHA-256 of a file, once for all of its segments."""
    return sha256_of(path)


def _outcome(utterance: Utterance, needs: Needs) -> CheckedAudio | str:
    """Return what is known of a recording, or the reason why it cannot be transcribed."""
    try:
        status = utterance.path.stat()
        return _check(utterance.path, status.st_size, status.st_mtime_ns, needs, utterance.part)
    except AsrDeployError as error:
        return str(error)
    except OSError:
        return f"There is no audio file {utterance.path}; check the path."


@lru_cache(maxsize=100_000)
def _check(path: Path, size: int, modified: int, needs: Needs, part: Part) -> CheckedAudio:
    """Check a recording; size and time of the last change (in ns) tell whether it was checked before."""
    return check_audio(path, needs.sample_rate, needs.shortest, needs.longest, part)


def _refusal(data: DataSet, bad: Sequence[LeftOut]) -> str:
    """Return the message about bad recordings. Those that do not fit into it are named in warnings before it."""
    reasons = [each.reason if each.reason.endswith((".", "?")) else f"{each.reason}." for each in bad]
    if len(bad) == 1:
        return f"{reasons[0]} To leave the recording out, use --skip-bad."
    found = f"{len(bad)} of {len(data.utterances) + len(data.bad)} recordings of {data.name} {data.split} cannot be transcribed."
    remedy = "Mend them, or leave them out with --skip-bad."
    whole = f"{found} {' '.join(reasons)} {remedy}"
    if len(whole) <= LONGEST_MESSAGE:
        return whole
    for reason in reasons:
        logger.warning(reason)
    return f"{found} They are named above. {remedy}"


def _remark(remarks: dict[str, str]) -> None:
    """Warn of each kind of peculiar recording."""
    by_remark: dict[str, list[str]] = {}
    for name, remark in remarks.items():
        by_remark.setdefault(remark, []).append(name)
    for remark, names in by_remark.items():
        if len(names) == 1:
            say_once(f"{names[0]} {remark}")
        else:
            more = f" and {len(names) - REMARKED} more" if len(names) > REMARKED else ""
            say_once(f"{len(names)} recordings are peculiar ({', '.join(names[:REMARKED])}{more}). Each of them {remark}")
