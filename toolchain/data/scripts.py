"""What the characters of references say: scripts without spaces between words, and characters that no label prints."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from device_runner.labels import WORD_SEPARATOR
from toolchain.data.normalisers import PUNCTUATION, WHISPER

# By their codes of two letters, and of three in ISO 639-2 and -3.
UNSPACED_LANGUAGES = frozenset(
    {
        *("zh", "zho", "chi", "cmn", "yue", "ja", "jpn", "th", "tha", "lo", "lao"),
        *("km", "khm", "my", "mya", "bur", "bo", "bod", "tib", "dz", "dzo"),
    }
)
# Beginnings of Unicode's names of the letters of these languages' scripts.
UNSPACED_SCRIPTS = ("CJK ", "HIRAGANA", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
NAMED = 12  # characters that a warning names


def unspaced(texts: Iterable[str], language: str | None = None) -> bool:
    """Return whether references are in a language without spaces between words, for which WER has no meaning.

    Args:
        texts: References.
        language: ISO 639 code; None: most letters decide.
    """
    if language is not None:
        return language in UNSPACED_LANGUAGES
    letters = Counter(each for text in texts for each in text if unicodedata.category(each)[0] == "L")
    there = sum(number for each, number in letters.items() if unicodedata.name(each, "").startswith(UNSPACED_SCRIPTS))
    return 2 * there > letters.total()


def unprintable(references: Iterable[str], labels: Sequence[str]) -> dict[str, int]:
    """Count the characters of references that no label prints, the most frequent first.

    Args:
        references: References in upper case and NFC.
        labels: Labels by index, the blank first.
    """
    printed = set(unicodedata.normalize("NFC", "".join(labels[1:]))) | set("".join(labels[1:])) | {" "}
    printed.discard(WORD_SEPARATOR)
    counts = Counter(each for text in references for each in text)
    # A vocabulary may print a letter in parts: a base and a combining mark.
    return {
        each: number
        for each, number in counts.most_common()
        if each not in printed and not (len(parts := unicodedata.normalize("NFD", each)) > 1 and set(parts) <= printed)
    }


def unprintable_warning(found: Mapping[str, int], characters: int, where: str = "the data set") -> str:
    """Return the warning about characters that no label prints, with the options that help.

    Args:
        found: The characters with their counts; see ``unprintable``.
        characters: Number of characters of all references.
        where: Data set and split of the references.
    """
    named = " ".join(f"“{each}”" if each.isprintable() else f"U+{ord(each):04X}" for each in list(found)[:NAMED]) + (
        f" and {len(found) - NAMED} others" if len(found) > NAMED else ""
    )
    advice = []
    if any(unicodedata.category(each)[0] in "PS" for each in found):
        advice.append(f"`asrdeploy score RESULT --normalizer {PUNCTUATION}` adds a WER without punctuation")
    if any(unicodedata.category(each)[0] == "N" for each in found):
        advice.append(f"`asrdeploy score RESULT --normalizer {WHISPER}` adds a WER with numbers as digits on both sides (English)")
    if set(found) & {"ı", "İ"}:
        advice.append("--language of `asrdeploy evaluate` says how ı and İ change case (tr: Turkish)")
    if not advice:
        advice.append("use a model with these letters, or transcripts in its spelling")
    said = "; ".join(advice)
    return (
        f"No label of the model prints {named}, {sum(found.values()) / characters:.1%} of the characters of the references in {where}. "
        f"Words with them always count as errors. {said[0].upper() + said[1:] if not said.startswith('--') else said}."
    )
