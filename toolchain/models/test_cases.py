"""Test cases and their anchors: those of the scenario (3GPP TR 26.847 clause 5.2), the bundled one, TorchAudio's, and custom models'."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from device_runner.artifact import Manifest, manifest_folder
from device_runner.bitstream.network import EPSILON, Network
from device_runner.errors import AsrDeployError
from device_runner.home import in_home
from device_runner.suggestions import nearest

# Index 0 is the blank, and `|` is the space between words. The order is that of TorchAudio's ASR bundles.
LABELS = ("-", "|", *"ETAONIHSRDLUMWCFGYPBVK", "'", *"XJQZ")
# Rows that fairseq's dictionary has after the blank and that no ASR label uses.
UNUSED_ROWS = (1, 2, 3)


@dataclass(frozen=True)
class Anchor:
    """The uncompressed model that compressed models are compared with.

    Args:
        num_param: Number of parameters, as the scenario counts them.
        wer: WER on test-clean as a fraction; None if it must be measured.
        normalised_waveform: Whether layer norm is applied to the whole waveform before the network.
        epsilon: Epsilon of that layer norm.
    """

    num_param: int
    wer: float | None
    normalised_waveform: bool
    epsilon: float = EPSILON

    @property
    def size_bits(self) -> int:
        """Size of the anchor in bits (sizeAnc): 32 per parameter."""
        return self.num_param * 32


@dataclass(frozen=True)
class TestCase:
    """A test case: the anchor and the WER range in which points must lie.

    Args:
        number: Number of the test case; None for a model that the scenario does not have.
        name: Name of the anchor. Except for test case 0 and custom models, it is also the name of TorchAudio's bundle.
        anchor: The uncompressed model.
        labels: Labels by index, with the blank first and ``|`` for the space.
        sample_rate: Sample rate in hertz.
        wer_range: Width of the WER range above the anchor's WER, as a fraction.
        network: Description of a custom model's network; None for built-in models, and if only an artifact is known.
    """

    __test__ = False  # pytest must not collect this class as a test

    number: int | None
    name: str
    anchor: Anchor
    labels: tuple[str, ...] = LABELS
    sample_rate: int = 16_000
    wer_range: float = 0.05
    network: Network | None = None

    def in_range(self, wer: float, anchor_wer: float) -> bool:
        """Return whether a WER lies in the range from the anchor's WER to ``wer_range`` above it (both included), as fractions."""
        return anchor_wer <= wer <= anchor_wer + self.wer_range


TEST_CASES = (
    TestCase(0, "DIGITS_ASR_TINY", Anchor(1_524_892, None, normalised_waveform=False)),
    TestCase(1, "WAV2VEC2_ASR_BASE_960H", Anchor(94_393_245, 0.034, normalised_waveform=False)),
    TestCase(2, "HUBERT_ASR_LARGE", Anchor(315_463_837, 0.021, normalised_waveform=True)),
)
# The other CTC models of torchaudio.pipelines. Only the names are listed here, so that torch is not needed to know them.
BUNDLES = (
    "WAV2VEC2_ASR_BASE_10M",
    "WAV2VEC2_ASR_BASE_100H",
    "WAV2VEC2_ASR_LARGE_10M",
    "WAV2VEC2_ASR_LARGE_100H",
    "WAV2VEC2_ASR_LARGE_960H",
    "WAV2VEC2_ASR_LARGE_LV60K_10M",
    "WAV2VEC2_ASR_LARGE_LV60K_100H",
    "WAV2VEC2_ASR_LARGE_LV60K_960H",
    "HUBERT_ASR_XLARGE",
    "VOXPOPULI_ASR_BASE_10K_EN",
    "VOXPOPULI_ASR_BASE_10K_ES",
    "VOXPOPULI_ASR_BASE_10K_DE",
    "VOXPOPULI_ASR_BASE_10K_FR",
    "VOXPOPULI_ASR_BASE_10K_IT",
)
BUILT_IN = (*(case.name for case in TEST_CASES), *BUNDLES)


def find_test_case(name: str) -> TestCase:
    """Return the test case of a built-in model by its number or name (in upper or lower case).

    Raises:
        AsrDeployError: If there is no such model.
        ModuleNotFoundError: If the model is one of ``BUNDLES`` and torchaudio is not installed.
    """
    if name.upper() in BUNDLES:
        from toolchain.models.networks import bundle_case

        return bundle_case(name.upper())
    case = next((case for case in TEST_CASES if name.upper() == case.name or name == str(case.number)), None)
    if case is None:
        raise nearest(name, BUILT_IN, "model")
    return case


def is_built_in(name: str) -> bool:
    """Return whether a number or a name means a built-in model, without importing torch."""
    return name.upper() in BUILT_IN or name in {str(case.number) for case in TEST_CASES}


# Custom models

CONFIG = "config.json"  # of a Hugging Face folder
HUB, SNAPSHOTS = "models--", "snapshots"  # of a Hub cache: models--ORGANISATION--NAME/snapshots/COMMIT
DESCRIPTION = ".toml"
CHECKPOINTS = (".safetensors", ".pt", ".pth")
FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
HUB_PREFIX = "hf:"
_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_LANGUAGE = r"\w[\w-]{0,99}"
HUB_NAME = re.compile(
    rf"(?P<prefix>{HUB_PREFIX})?(?P<repository>{_PART}/{_PART})(@(?P<revision>\w[\w./-]{{0,199}}))?(:(?P<language>{_LANGUAGE}))?", re.ASCII
)
OUR_FOLDERS = ("artifacts", "results")  # default output folders, which users mistype
NAME = re.compile(r"\w[\w.+-]{0,99}")  # a valid folder name


def names_custom_model(name: str) -> bool:
    """Return whether a name means a custom model (a folder, a file or a factory), without importing torch."""
    if not name or is_built_in(name):
        return False
    path = Path(in_home(name))
    if path.is_dir():
        return not is_artifact(path)
    if with_language(name)[1] is not None:
        return True
    return path.suffix in (DESCRIPTION, *CHECKPOINTS) or "/" in name or FACTORY.fullmatch(name) is not None


def names_hub_model(name: str) -> bool:
    """Return whether a name means a model on the Hub: ``hf:ORGANISATION/NAME``, or ``ORGANISATION/NAME`` if nothing here has this path.

    ``@REVISION`` and ``:LANGUAGE`` may follow. A path in a folder that exists is a mistyped path, not a name on the Hub.
    """
    if name.startswith(HUB_PREFIX) and "/" in name:
        return True
    found = HUB_NAME.fullmatch(name)
    if found is None:
        return False
    path = Path(found["repository"])
    folder = path.parts[0]
    known = folder in OUR_FOLDERS or Path(folder).exists() or Path(name).exists()
    return not known and path.suffix not in (DESCRIPTION, *CHECKPOINTS)


def hub_cache(repository: str) -> Path:
    """Return the folder of a model in the Hub's cache, which HF_HUB_CACHE or HF_HOME may move."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(in_home(os.environ.get("HF_HUB_CACHE") or str(home / "hub")))
    return cache / f"{HUB}{repository.replace('/', '--')}"


def with_language(name: str) -> tuple[str, str | None]:
    """Split ``FOLDER:LANGUAGE``, of a Hugging Face folder of several languages; the language is None if the name is no such one."""
    folder, _, language = name.rpartition(":")
    if folder and re.fullmatch(_LANGUAGE, language) and not Path(name).exists() and _is_file(Path(in_home(folder)) / CONFIG):
        return folder, language
    return name, None


def is_artifact(path: Path) -> bool:
    """Return whether a folder is an artifact and not a model, which may have the artifact of its export in a subfolder."""
    place = manifest_folder(path)
    return place == path or (place is not None and not any(path.glob("*.safetensors")) and not any(path.glob("*.bin*")))


def holds_models(path: Path) -> bool:
    """Return whether a folder is a Hugging Face folder, or has one in it, as Hub caches and the outputs of trainers have."""
    if _is_file(path / CONFIG):
        return True
    try:
        return any(each.name == SNAPSHOTS or each.name.startswith(HUB) or _is_file(each / CONFIG) for each in path.iterdir())
    except OSError:  # not readable
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its folder is not readable
        return False


def custom_case(name: str, network: Network) -> TestCase:
    """Return the test case of a custom model. Its anchor is the uncompressed model, whose WER is measured on the user's data.

    Args:
        name: Name of the model.
        network: Description of its network.

    Raises:
        AsrDeployError: If the name belongs to a built-in model, or is not a valid folder name.
    """
    if is_built_in(name):
        raise AsrDeployError(
            f"{name} is the name of a built-in model. Give your model another name (by default, the name of its folder or file)."
        )
    if not NAME.fullmatch(name):
        raise AsrDeployError(
            f"“{name[:100]}” is not a valid model name. Use at most 100 letters, digits and . _ + -, starting with a letter or digit."
        )
    anchor = Anchor(network.num_param, None, network.normalised_waveform, network.epsilon)
    return TestCase(None, name, anchor, network.labels, network.sample_rate, network=network)


def case_of(manifest: Manifest) -> TestCase:
    """Return the test case of an artifact: that of the scenario with the model's name, or one made from the manifest."""
    anchor = Anchor(manifest.parameters, None, manifest.normalised_waveform)
    known = (case for case in TEST_CASES if case.name == manifest.model)
    return next(known, TestCase(None, manifest.model, anchor, manifest.labels, manifest.sample_rate))
