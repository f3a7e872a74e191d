"""Normalisers of text before words are counted: how two sides that spell the same differently are made alike."""

from collections.abc import Callable
from functools import cache

from device_runner.suggestions import nearest

NONE, WHISPER = "none", "whisper"
NORMALIZERS = {NONE, WHISPER}


def normaliser(name: str) -> Callable[[str], str]:
    """Return what makes a reference or a hypothesis ready to be counted.

    Args:
        name: ``none``: as it is, which is the scenario's; ``whisper``: Whisper's for English (lower case, no punctuation, no filler words,
            numbers as digits, British spelling as American), which leaderboards take.

    Raises:
        AsrDeployError: there is no such normaliser.
    """
    check_normalizer(name)
    return str if name == NONE else _whisper()


def check_normalizer(name: str) -> None:
    """Raise AsrDeployError for a normaliser that there is not."""
    if name not in NORMALIZERS:
        raise nearest(name, NORMALIZERS, "normaliser")


@cache
def _whisper() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()
