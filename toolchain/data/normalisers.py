"""Text normalisers: they make different spellings of the same words equal before errors are counted."""

from collections.abc import Callable
from functools import cache

from device_runner.suggestions import nearest

NONE, WHISPER = "none", "whisper"
NORMALIZERS = {NONE, WHISPER}


def normaliser(name: str) -> Callable[[str], str]:
    """Return the function that normalises a reference or a hypothesis before errors are counted.

    Args:
        name: Name of the normaliser. ``none`` leaves the text unchanged, as the scenario requires. ``whisper`` is Whisper's English
            normaliser, which leaderboards use: lower case, American spelling, digits, no punctuation and no filler words.

    Raises:
        AsrDeployError: The normaliser is unknown.
    """
    check_normalizer(name)
    return str if name == NONE else _whisper()


def check_normalizer(name: str) -> None:
    """Raise AsrDeployError if the normaliser is unknown."""
    if name not in NORMALIZERS:
        raise nearest(name, NORMALIZERS, "normaliser")


@cache
def _whisper() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()
