"""Voices of the synthesisers and their roles.

Every voice has one role. ``train`` voices speak the training corpus; ``dev`` and ``test`` voices speak only the bundled dev-clean and
test-clean, which have no voice and no text in common.
"""

from dataclasses import dataclass
from typing import Literal

Family = Literal["espeak-ng", "flite", "festival", "pico"]

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


@dataclass(frozen=True)
class Voice:
    """A voice: the synthesiser and the voice's name there (espeak-ng: ``accent+variant``)."""

    family: Family
    name: str


# Accents and variants of espeak-ng 1.51, without whispers and sound effects.
ESPEAK_ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)
ESPEAK_TRAIN_VARIANTS = (
    *("adam", "Alex", "Andrea", "Annie", "antonio", "aunty", "benjamin", "boris", "caleb", "david", "Denis", "ed"),
    *("edward", "edward2", "Gene", "Gene2", "gustave", "Henrique", "Hugo", "iven", "iven2", "iven3", "iven4", "jacky"),
    *("john", "kaukovalta", "Lee", "marcelo", "Marco", "Mario", "max", "michael", "Michel", "miguel", "mike", "Mr"),
    *("Nguyen", "pablo", "paul", "pedro", "quincy", "RicishayMax", "RicishayMax2", "rob", "robert", "robosoft"),
    *("robosoft3", "robosoft6", "steph", "steph2", "steph3", "Storm", "Tweaky", "zac", "anika", "AnxiousAndy"),
    *("f1", "f3", "f5", "grandpa", "grandma", "klatt", "klatt2", "klatt3", "klatt4", "klatt5", "m1", "m2", "m4"),
    *("m7", "m8", "shelby", "travis", "croak"),
)

TRAIN_VOICES: tuple[tuple[Voice, int], ...] = (
    # (voice, number of utterances). For espeak-ng, accent and variant are drawn per utterance.
    (Voice("espeak-ng", "*"), 12_000),
    (Voice("flite", "awb"), 1_200),
    (Voice("flite", "slt"), 1_200),
    (Voice("flite", "kal16"), 900),
    (Voice("flite", "kal"), 500),
    (Voice("festival", "kal_diphone"), 500),
    (Voice("pico", "en-US"), 1_600),
    (Voice("pico", "en-GB"), 1_600),
)

# Speakers of the bundled sets: (voice, LibriSpeech-style speaker number, utterances).
TEST_SPEAKERS: tuple[tuple[Voice, int, int], ...] = (
    (Voice("espeak-ng", "en-us+m3"), 101, 25),
    (Voice("espeak-ng", "en-gb+f4"), 102, 25),
    (Voice("espeak-ng", "en-us+linda"), 103, 25),
    (Voice("espeak-ng", "en-gb-x-rp+Diogo"), 104, 25),
    (Voice("espeak-ng", "en-us+norbert"), 105, 25),
    (Voice("espeak-ng", "en-gb-scotland+victor"), 106, 25),
    (Voice("flite", "rms"), 111, 30),
    (Voice("festival", "cmu_us_slt_arctic_hts"), 121, 30),
)
DEV_SPEAKERS: tuple[tuple[Voice, int, int], ...] = (
    (Voice("espeak-ng", "en-us+f2"), 201, 27),
    (Voice("espeak-ng", "en-gb+m6"), 202, 27),
    (Voice("espeak-ng", "en-us+belinda"), 203, 27),
    (Voice("espeak-ng", "en-gb-x-gbclan+sandro"), 204, 27),
    (Voice("festival", "ked_diphone"), 221, 42),
)
