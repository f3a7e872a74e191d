"""Test cases of the scenario (3GPP TR 26.847 clause 5.2) and the bundled one: their anchors as data."""

from dataclasses import dataclass

from device_runner.names import nearest

# Index 0 is the blank, `|` the space between words; the order is that of TorchAudio's ASR bundles.
LABELS = ("-", "|", *"ETAONIHSRDLUMWCFGYPBVK", "'", *"XJQZ")


@dataclass(frozen=True)
class Anchor:
    """The uncompressed model that test configurations are compared with.

    Args:
        num_param: parameters, as the scenario counts them.
        wer: word error rate on test-clean as a fraction; None where it is measured rather than given.
        normalised_waveform: layer norm over the whole waveform before the network.
    """

    num_param: int
    wer: float | None
    normalised_waveform: bool

    @property
    def size_bits(self) -> int:
        """sizeAnc: 32 bits for every parameter."""
        return self.num_param * 32


@dataclass(frozen=True)
class TestCase:
    """One test case: the anchor's bundle and the range of word error rates that points must lie in."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    number: int
    name: str
    anchor: Anchor
    labels: tuple[str, ...] = LABELS
    sample_rate: int = 16_000
    wer_range: float = 0.05

    def in_range(self, wer: float, anchor_wer: float) -> bool:
        """Tell whether a word error rate lies between the anchor's and five points above it (both included)."""
        return anchor_wer <= wer <= anchor_wer + self.wer_range


TEST_CASES = (
    TestCase(0, "DIGITS_ASR_TINY", Anchor(1_524_892, None, normalised_waveform=False)),
    TestCase(1, "WAV2VEC2_ASR_BASE_960H", Anchor(94_393_245, 0.034, normalised_waveform=False)),
    TestCase(2, "HUBERT_ASR_LARGE", Anchor(315_463_837, 0.021, normalised_waveform=True)),
)


def find_test_case(name: str) -> TestCase:
    """Return the test case with this number or this anchor's name (case does not matter).

    Raises:
        AsrDeployError: there is none; the nearest name is suggested.
    """
    for case in TEST_CASES:
        if name.upper() == case.name or name == str(case.number):
            return case
    raise nearest(name, [case.name for case in TEST_CASES], "model")
