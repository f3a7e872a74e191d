"""What was tuned with is not measured on: the guard, by utterance ids, whatever a folder or a split is called."""

import re
from collections.abc import Collection
from functools import cache

from device_runner.errors import AsrDeployError
from toolchain.data.datasets import DIGITS, DataSet, open_data

# LibriSpeech's ids are SPEAKER-CHAPTER-NNNN, and its speakers are in one of its sets only. The 40 of test-clean, as in SPEAKERS.TXT of the
# corpus, but written from memory and not compared with that file.
LIBRISPEECH_TEST_CLEAN = (
    "61 121 237 260 672 908 1089 1188 1221 1284 1320 1580 1995 2094 2300 2830 2961 3570 3575 3729 4077 4446 4507 4970 4992 5105 5142 "
    "5639 5683 6829 6930 7021 7127 7176 7729 8224 8230 8455 8463 8555"
)
# Its chapters are LibriVox's, of three digits and more; the bundled sets (which have a speaker 121 too) have one chapter, 1.
LIBRISPEECH_ID = re.compile(r"([1-9]\d*)-[1-9]\d{2,}-\d{4}", re.ASCII)


def check_unseen(tuned_on: Collection[str], data: DataSet, what: str) -> None:
    """Refuse a set that holds utterances that something was tuned with.

    Args:
        tuned_on: ids of utterances.
        data: word error rates are to be measured on it.
        what: was tuned, for the message.

    Raises:
        AsrDeployError: they share an utterance.
    """
    seen = frozenset(tuned_on)
    shared = [each.id for each in data.utterances if each.id in seen]
    if shared:
        raise AsrDeployError(
            f"{what} is tuned with {len(shared)} of the {len(data.utterances)} utterances of {data.name} {data.split}, {shared[0]} the "
            "first: a word error rate there would say nothing; evaluate on utterances that it has not seen, or tune with others."
        )


def check_tuning_data(data: DataSet) -> None:
    """Refuse to tune with the utterances of a set that word error rates are reported on: the bundled and LibriSpeech's test-clean.

    Raises:
        AsrDeployError: the set holds one of them.
    """
    found = [(each.id, known) for each in data.utterances if (known := _evaluation_set(each.id)) is not None]
    if found:
        first, known = found[0]
        raise AsrDeployError(
            f"{data.name} {data.split} holds {len(found)} utterances with ids of {known}, {first} the first: word error rates are reported "
            "on them, so nothing is tuned with them; use dev-clean, or give recordings of your own other ids."
        )


def _evaluation_set(utterance: str) -> str | None:
    """Return the evaluation set that an id belongs to."""
    if utterance in _bundled_test_clean():
        return "the bundled test-clean"
    match = LIBRISPEECH_ID.fullmatch(utterance)
    return "LibriSpeech's test-clean" if match and match[1] in LIBRISPEECH_TEST_CLEAN.split() else None


@cache
def _bundled_test_clean() -> frozenset[str]:
    return frozenset(each.id for each in open_data(DIGITS, "test-clean").utterances)
