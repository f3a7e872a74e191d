"""Checks that keep tuning data and test data apart, by utterance ids rather than by names of folders or splits."""

import re
from collections.abc import Collection
from functools import cache

from device_runner.errors import AsrDeployError
from toolchain.data.datasets import DIGITS, DataSet, open_data

# The 40 speakers of LibriSpeech's test-clean; ids are SPEAKER-CHAPTER-NNNN, and each speaker occurs in one set only.
# The list was written from memory and not compared with SPEAKERS.TXT of the corpus.
LIBRISPEECH_TEST_CLEAN = (
    "61 121 237 260 672 908 1089 1188 1221 1284 1320 1580 1995 2094 2300 2830 2961 3570 3575 3729 4077 4446 4507 4970 4992 5105 5142 "
    "5639 5683 6829 6930 7021 7127 7176 7729 8224 8230 8455 8463 8555"
)
# LibriSpeech's chapter numbers have at least three digits; the bundled sets, which have a speaker 121 too, only have chapter 1.
LIBRISPEECH_ID = re.compile(r"([1-9]\d*)-[1-9]\d{2,}-\d{4}", re.ASCII)


def check_unseen(tuned_on: Collection[str], data: DataSet, what: str) -> None:
    """Refuse a test set that contains utterances that were used for tuning.

    Args:
        tuned_on: Ids of the utterances used for tuning.
        data: Set on which WER will be measured.
        what: Name of what was tuned, for the message.

    Raises:
        AsrDeployError: The set contains an utterance of ``tuned_on``.
    """
    seen = frozenset(tuned_on)
    shared = [each.id for each in data.utterances if each.id in seen]
    if shared:
        raise AsrDeployError(
            f"{what} used {len(shared)} of the {len(data.utterances)} utterances of {data.name} {data.split} for tuning (first: "
            f"{shared[0]}), so WER on this set would be meaningless. Evaluate on other utterances, or tune on others."
        )


def check_tuning_data(data: DataSet) -> None:
    """Refuse to tune on utterances of a test set: the bundled test-clean or LibriSpeech's test-clean.

    Raises:
        AsrDeployError: The set contains an utterance of one of them.
    """
    found = [(each.id, known) for each in data.utterances if (known := _evaluation_set(each.id)) is not None]
    if found:
        first, known = found[0]
        raise AsrDeployError(
            f"{data.name} {data.split} contains {len(found)} utterances with ids of {known} (first: {first}). WER is reported on these "
            "utterances, so they cannot be used for tuning. Use dev-clean, or rename the ids if these are your own recordings."
        )


def _evaluation_set(utterance: str) -> str | None:
    """Return the name of the test set that an id belongs to, or None."""
    if utterance in _bundled_test_clean():
        return "the bundled test-clean"
    match = LIBRISPEECH_ID.fullmatch(utterance)
    return "LibriSpeech's test-clean" if match and match[1] in LIBRISPEECH_TEST_CLEAN.split() else None


@cache
def _bundled_test_clean() -> frozenset[str]:
    return frozenset(each.id for each in open_data(DIGITS, "test-clean").utterances)
