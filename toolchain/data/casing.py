"""Upper case as the language asks, and one Unicode form (NFC), for references, hypotheses and labels."""

import re
import unicodedata
from collections.abc import Iterable

from device_runner.errors import AsrDeployError

# Languages of Latin script in which i and ı are two letters with the capitals İ and I; see Unicode's SpecialCasing.txt.
DOTLESS_LANGUAGES = frozenset({"tr", "tur", "az", "aze", "azj", "crh", "gag", "kaa", "tt", "tat"})
TURKISH = "tr"
_DOTLESS_CAPITALS = str.maketrans({"i": "İ", "ı": "I"})


def language_of(labels: Iterable[str]) -> str | None:
    """Return ``tr`` if a vocabulary has ı or İ, which decides how i and ı become capitals, otherwise None.

    Args:
        labels: Labels of a model, in either case.
    """
    return TURKISH if any("ı" in label or "İ" in label for label in labels) else None


def upper(text: str, language: str | None = None) -> str:
    """Return a text in upper case and in the Unicode form NFC.

    Args:
        text: A reference, a hypothesis or a label.
        language: ISO 639 code. Turkish and its relatives have the pairs i/İ and ı/I, all other languages i/I. None: the language is not
            known, so ı, of which only the language tells the capital, stays as it is.
    """
    text = unicodedata.normalize("NFC", text)
    if language is None:
        return unicodedata.normalize("NFC", "ı".join(part.upper() for part in text.split("ı")))
    if language in DOTLESS_LANGUAGES:
        text = text.translate(_DOTLESS_CAPITALS)
    # Elsewhere ı and İ occur in foreign names only.
    return unicodedata.normalize("NFC", text.upper() if language in DOTLESS_LANGUAGES else text.upper().replace("İ", "I"))


def check_language(language: str | None) -> None:
    """Raise AsrDeployError if a text is not an ISO 639 code."""
    if language is not None and not re.fullmatch("[a-z]{2,3}", language):
        raise AsrDeployError(f"--language {language} is not a language code. Use two or three lower-case letters, for example tr or en.")
