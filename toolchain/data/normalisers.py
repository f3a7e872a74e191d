"""Text normalisers: they make different spellings of the same words equal before errors are counted."""

import unicodedata
from collections.abc import Callable
from functools import cache

from device_runner.suggestions import nearest

NONE, PUNCTUATION, WHISPER = "none", "punctuation", "whisper"
NORMALIZERS = (NONE, PUNCTUATION, WHISPER)
APOSTROPHES = "'’‘ʼ＇"


def normaliser(name: str) -> Callable[[str], str]:
    """Return the function that normalises a reference or a hypothesis before errors are counted.

    Args:
        name: Name of the normaliser. ``none`` leaves the text unchanged, as the scenario requires. ``punctuation`` removes
            punctuation and symbols of any language, except apostrophes inside words. ``whisper`` is Whisper's English normaliser, which
            leaderboards use: lower case, American spelling, digits, no punctuation and no filler words.

    Raises:
        AsrDeployError: The normaliser is unknown.
    """
    check_normalizer(name)
    if name == WHISPER:
        return _whisper()
    return without_punctuation if name == PUNCTUATION else str


def check_normalizer(name: str) -> None:
    """Raise AsrDeployError if the normaliser is unknown."""
    if name not in NORMALIZERS:
        raise nearest(name, NORMALIZERS, "normaliser")


def without_punctuation(text: str) -> str:
    """Return a text without punctuation and symbols: they become spaces, except apostrophes inside words, which become ``'``.

    Whisper's own normaliser for other languages also removes combining marks, which are vowels in many scripts.
    """
    kept = []
    for index, each in enumerate(text):
        inside = 0 < index < len(text) - 1 and text[index - 1].isalnum() and text[index + 1].isalnum()
        if each in APOSTROPHES and inside:
            kept.append("'")
        else:
            kept.append(" " if unicodedata.category(each)[0] in "PS" else each)
    # What an emoji was joined with (zero-width joiners, variation selectors) is left alone, and is no word.
    return " ".join(word for word in "".join(kept).split() if any(each.isalnum() for each in word))


@cache
def _whisper() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()
