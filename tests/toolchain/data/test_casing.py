"""Upper case as the language asks, scripts without spaces, characters that no label prints."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from toolchain.data.casing import check_language, language_of, upper
from toolchain.data.normalisers import normaliser
from toolchain.data.scripts import unprintable, unprintable_warning, unspaced

LABELS = ("-", "|", "E", "T", "A", "'")


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("ılık ilik", "tr", "ILIK İLİK"),
        ("ılık ilik", "az", "ILIK İLİK"),
        ("ilik", None, "ILIK"),
        ("ılık", None, "ıLıK"),  # what only the language can tell is not mapped in silence
        ("İstanbul", "en", "ISTANBUL"),
        ("straße", "de", "STRASSE"),
        ("cafe\u0301", None, "CAF\u00c9"),
    ],
)
def test_capitals_by_language(text: str, language: str | None, expected: str) -> None:
    assert upper(text, language) == expected


@given(st.text(), st.sampled_from([None, "tr", "en"]))
def test_upper_case_is_final_and_composed(text: str, language: str | None) -> None:
    once = upper(text, language)
    assert upper(once, language) == once == unicodedata.normalize("NFC", once)


def test_a_vocabulary_tells_turkish() -> None:
    assert language_of(["-", "i", "ı"]) == language_of(["-", "I", "İ"]) == "tr"
    assert language_of(["-", "I", "i"]) is None


@pytest.mark.parametrize("code", ["TR", "turkish", "t", "tr-TR", ""])
def test_a_language_is_a_code(code: str) -> None:
    with pytest.raises(AsrDeployError, match="is not a language code"):
        check_language(code)


def test_scripts_without_spaces() -> None:
    assert unspaced(["今日はいい天気です"]) and unspaced(["สวัสดี"]) and unspaced(["anything"], "zh")
    assert not unspaced(["OK 今"]) and not unspaced(["안녕 하세요"]) and not unspaced([]) and not unspaced(["今日"], "en")


def test_characters_that_no_label_prints_are_counted_and_the_way_out_is_named() -> None:
    found = unprintable(["TEA, TÉA 3", "A, E"], LABELS)
    assert found == {",": 2, "É": 1, "3": 1}
    said = unprintable_warning(found, 14)
    assert said.startswith("No label of the model prints “,” “É” “3”, 28.6% of the characters") and said.endswith(".")
    assert "--normalizer punctuation" in said and "--normalizer whisper" in said
    assert "--language" in unprintable_warning(unprintable(["ıA"], LABELS), 2)


def test_a_vocabulary_may_print_a_letter_in_parts() -> None:
    assert unprintable(["É"], (*LABELS, "\u0301")) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O’Neil said: ‘hi’ — “ok”, 5 €!", "O'Neil said hi ok 5"),
        ("हिन्दी।", "हिन्दी"),  # vowel signs are marks, and stay
        ("...", ""),
        ("well-known", "well known"),
    ],
)
def test_punctuation_is_removed(text: str, expected: str) -> None:
    assert normaliser("punctuation")(text) == expected
