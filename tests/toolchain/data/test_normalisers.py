"""Normalisers: ``none`` leaves texts unchanged, ``whisper`` unifies spellings, and unknown names are refused."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from toolchain.data.normalisers import NORMALIZERS, check_normalizer, normaliser


@pytest.mark.parametrize("text", ["SIX 👨‍👩‍👧 EIGHT", "SIX ❤️ EIGHT", "SIX — EIGHT", "SIX \u200d EIGHT"])
def test_what_emojis_are_joined_with_is_no_word(text: str) -> None:
    assert normaliser("punctuation")(text) == "SIX EIGHT"


@pytest.mark.parametrize(
    "text, normalised",
    [
        ("THE CAT", "the cat"),
        ("The  cat, sat.", "the cat sat"),
        ("UM HMM THE UH CAT", "the cat"),
        ("MHM", ""),
        ("", ""),
        ("IT'S COLOUR", "it is color"),
        ("WON'T", "will not"),
        ("TWENTY THREE", "23"),
        ("FIVE SIX OH SEVEN", "5607"),  # consecutive digits become one word
        ("TWO MILLION DOLLARS", "$2000000"),
        ("MR QUILTER", "mister quilter"),
        ("[NOISE] THE (LAUGHS) CAT", "the cat"),
        ("CAFÉ", "cafe"),
    ],
)
def test_whispers_english(text: str, normalised: str) -> None:
    assert normaliser("whisper")(text).split() == normalised.split()


@given(st.text())
def test_the_scenarios_leaves_a_text_as_it_is(text: str) -> None:
    assert normaliser("none")(text) == text


WRITTEN = "one twenty HUNDRED million half and a point oh double $ £ % 1/0 1.5 . , ’ [ ( ) um 1st 0 ½ ² ٣ minus -3 'S"
NUMBERS = st.lists(st.sampled_from(WRITTEN.split()))


@settings(deadline=None)
@given(st.one_of(st.text(), NUMBERS.map(" ".join), NUMBERS.map("".join)))
def test_no_text_breaks_whispers(text: str) -> None:
    assert isinstance(normaliser("whisper")(text), str)


def test_it_is_built_once() -> None:
    assert normaliser("whisper") is normaliser("whisper")


@pytest.mark.parametrize("name, hint", [("wisper", "whisper"), ("None", "none"), ("", "none")])
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(AsrDeployError, match=f"Unknown normaliser “{name}”. Did you mean {hint}|Unknown normaliser “{name}”.*{hint}"):
        check_normalizer(name)
    with pytest.raises(AsrDeployError, match="Unknown normaliser"):
        normaliser(name)


def test_the_known_names() -> None:
    for name in NORMALIZERS:
        check_normalizer(name)


def test_scores_and_normalisers_can_be_imported_without_torch() -> None:
    code = (
        "import sys, toolchain.data.normalisers, toolchain.accuracy.scoring, toolchain.accuracy.comparison;"
        "import toolchain.reports.comparisons, toolchain.cli.scores;"
        "sys.exit(bool({'torch', 'torcheval', 'whisper_normalizer', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
