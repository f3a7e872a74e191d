"""Test cases of the scenario (3GPP TR 26.847 clause 5.2), the bundled one, and those of custom models: their anchors as data."""

import re
from dataclasses import dataclass
from pathlib import Path

from device_runner.artifact import MANIFEST, Manifest
from device_runner.bitstream.network import EPSILON, Network
from device_runner.errors import AsrDeployError
from device_runner.suggestions import nearest

# Index 0 is the blank, `|` the space between words; the order is that of TorchAudio's ASR bundles.
LABELS = ("-", "|", *"ETAONIHSRDLUMWCFGYPBVK", "'", *"XJQZ")


@dataclass(frozen=True)
class Anchor:
    """The uncompressed model that test configurations are compared with.

    Args:
        num_param: parameters, as the scenario counts them.
        wer: word error rate on test-clean as a fraction; None where it is measured rather than given.
        normalised_waveform: layer norm over the whole waveform before the network.
        epsilon: of that norm.
    """

    num_param: int
    wer: float | None
    normalised_waveform: bool
    epsilon: float = EPSILON

    @property
    def size_bits(self) -> int:
        """sizeAnc: 32 bits for every parameter."""
        return self.num_param * 32


@dataclass(frozen=True)
class TestCase:
    """One test case: the anchor and the range of word error rates that points must lie in.

    Args:
        number: None for a model that is none of the scenario's.
        name: the anchor's; TorchAudio's bundle of this name is the anchor.
        anchor: see ``Anchor``.
        labels: by index, the blank first, ``|`` for the space.
        sample_rate: in hertz.
        wer_range: above the anchor's word error rate, as a fraction.
        network: what a custom model is built from; None for the scenario's, and where only an artifact is known.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    number: int | None
    name: str
    anchor: Anchor
    labels: tuple[str, ...] = LABELS
    sample_rate: int = 16_000
    wer_range: float = 0.05
    network: Network | None = None

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
    case = built_in_case(name)
    if case is None:
        raise nearest(name, [case.name for case in TEST_CASES], "model")
    return case


def built_in_case(name: str) -> TestCase | None:
    """Return the test case with this number or name; None: there is none."""
    return next((case for case in TEST_CASES if name.upper() == case.name or name == str(case.number)), None)


# Models of one's own

CONFIG = "config.json"  # of a Hugging Face folder
DESCRIPTION = ".toml"
CHECKPOINTS = (".safetensors", ".pt", ".pth")
FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
NAME = re.compile(r"\w[\w.+-]{0,99}")  # it names folders


def names_custom_model(name: str) -> bool:
    """Tell whether a name on the command line is that of a custom model: a folder, a file, or a factory; torch is not needed to tell."""
    if not name or built_in_case(name) is not None:
        return False
    path = Path(name)
    if path.is_dir():
        return not (path / MANIFEST).is_file()
    return path.suffix in (DESCRIPTION, *CHECKPOINTS) or "/" in name or FACTORY.fullmatch(name) is not None


def custom_case(name: str, network: Network) -> TestCase:
    """Return the test case of a custom model: its anchor is the float model, whose word error rate is measured on the user's data.

    Raises:
        AsrDeployError: the name is a built-in test case's, or cannot name a folder.
    """
    if built_in_case(name) is not None:
        raise AsrDeployError(
            f"{name} is the name of a built-in test case; give your model another one (a folder's or file's name is its own)."
        )
    if not NAME.fullmatch(name):
        raise AsrDeployError(
            f"“{name[:100]}” cannot name a model: take letters, digits and . _ + - (at most 100, a letter or digit first)."
        )
    anchor = Anchor(network.num_param, None, network.normalised_waveform, network.epsilon)
    return TestCase(None, name, anchor, network.labels, network.sample_rate, network=network)


def case_of(manifest: Manifest) -> TestCase:
    """Return an artifact's test case: the built-in one of its model's name, else one of what the manifest says."""
    anchor = Anchor(manifest.parameters, None, manifest.normalised_waveform)
    known = (case for case in TEST_CASES if case.name == manifest.model)
    return next(known, TestCase(None, manifest.model, anchor, manifest.labels, manifest.sample_rate))
