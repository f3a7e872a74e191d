"""Load models with bundled, downloaded or random weights, weights from a file, or as a custom model."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from device_runner.errors import AsrDeployError, say_once
from device_runner.files import sha256_of, write_text
from device_runner.home import in_home
from toolchain.data.download import download
from toolchain.models.anchor_model import AnchorModel, around, finish, with_random_weights
from toolchain.models.custom.checkpoint_names import under_our_names
from toolchain.models.custom.hugging_face import read_folder
from toolchain.models.custom.labels import blank_first, our_labels
from toolchain.models.custom.outputs import padding_or_dictionary, say_unnamed
from toolchain.models.networks import bundle_of, unused_rows
from toolchain.models.test_cases import CONFIG, UNUSED_ROWS, TestCase, find_test_case, names_custom_model
from toolchain.models.weight_files import digest_of_file, read_checkpoint, read_tuned_on

BUNDLED_WEIGHTS = Path(__file__).parent.parent / "assets" / "digits_asr_tiny" / "model.safetensors"
WEIGHTS_URL = "https://download.pytorch.org/torchaudio/models"
# No SHA-256 of the other checkpoints is published. The one of the first download is stored next to the file.
WEIGHTS_SHA256 = {"WAV2VEC2_ASR_BASE_960H": "488fd4f16de84438ffc945334278c1b9fb9b7159a806c1080b16111a958c945d"}


def load_model(name: str | int | Path, weights: str | None = None, seed: int = 0) -> AnchorModel:
    """Load a model: an anchor of the scenario, another CTC model of ``torchaudio.pipelines``, or a custom model.

    Example:
        >>> model = asrdeploy.load_model("DIGITS_ASR_TINY")  # doctest: +SKIP
        >>> model = asrdeploy.load_model("my-model/")  # a Hugging Face folder  # doctest: +SKIP

    Args:
        name: Name or number of an anchor: ``DIGITS_ASR_TINY`` (0), ``WAV2VEC2_ASR_BASE_960H`` (1) or ``HUBERT_ASR_LARGE`` (2); the name
            of another bundle, such as ``VOXPOPULI_ASR_BASE_10K_DE``. For a custom model: a Hugging Face folder, a checkpoint with a
            TOML file, or ``package.module:factory``.
        weights: None for the bundled or published weights (downloaded to torch's cache if needed), ``random``, or a file of weights.
        seed: Seed of random weights.

    Returns:
        The model, in evaluation mode.

    Raises:
        AsrDeployError: If the name is unknown, or the weights cannot be downloaded or read, or do not fit.
    """
    name = in_home(str(name))
    weights = None if weights is None else in_home(weights)
    if names_custom_model(name):
        from toolchain.models.custom.loading import load_custom

        return load_custom(name, weights, seed)
    case = find_test_case(name)
    if weights == "random":
        return with_random_weights(case, seed)
    if weights is not None:
        path = Path(weights)
        source = f"file, sha256 {digest_of_file(path)[:16]}"
        return _from_file(case, path, source, usual=False)
    if case.number == 0:
        return _from_file(case, BUNDLED_WEIGHTS, f"bundled, sha256 {digest_of_file(BUNDLED_WEIGHTS)[:16]}")
    return _from_bundle(case)


def _from_file(case: TestCase, path: Path, source: str, *, usual: bool = True) -> AnchorModel:
    state, remarks = read_checkpoint(path)
    named = under_our_names(state, str(path), remarks, usual=usual)
    if named.hugging_face:
        _check_labels(case, path)
    network = around(case, _without_unused_rows(named.state, case, str(path), usual=usual), str(path), original=named.original)
    return replace(finish(case, network, source, trained=True), tuned_on=read_tuned_on(path) or ())


def _check_labels(case: TestCase, path: Path) -> None:
    """Check that weights of a Hugging Face folder have the labels of a test case, in its order."""
    if not (path.parent / CONFIG).is_file():
        say_once(f"{path}: without {CONFIG} and vocab.json in its folder, its outputs are taken for those of {case.name}'s labels.")
        return
    folder = read_folder(path.parent)
    labels = our_labels(folder.labels, folder.blank, str(path.parent), separator=folder.separator, silent=folder.silent)
    outputs = (folder.rows[index] for index in blank_first(len(labels), folder.blank))
    by_output = dict(zip(outputs, labels, strict=True))
    used = [row for row in range(folder.outputs) if folder.outputs == len(case.labels) or row not in unused_rows(case)]
    if folder.rows[folder.blank] != 0 or [by_output.get(row) for row in used[1:]] != list(case.labels[1:]):
        raise AsrDeployError(
            f"{path} has other labels than {case.name}, or another order of them. Give its folder {path.parent} as the model."
        )


def _from_bundle(case: TestCase) -> AnchorModel:
    """Return the model with the published weights, and download them if torch's cache lacks them."""
    file = bundle_of(case)._path
    cache = torch.hub.get_dir()
    if cache.startswith("~"):  # torch would make a folder named ~
        raise AsrDeployError("There is no folder for downloaded weights: the home folder of this user is not known. Set TORCH_HOME.")
    path = Path(cache) / "checkpoints" / file
    record = path.with_suffix(".sha256")
    expected = os.environ.get("ASRDEPLOY_WEIGHTS_SHA256") or WEIGHTS_SHA256.get(case.name)
    if expected is None and record.exists():
        expected = record.read_text().strip()
    base = os.environ.get("ASRDEPLOY_WEIGHTS_URL") or WEIGHTS_URL
    download(f"{base.rstrip('/')}/{file}", path, sha256=expected)
    found = expected or sha256_of(path)
    try:
        model = _from_file(case, path, f"downloaded from the TorchAudio bundle, sha256 {found[:16].lower()}")
    except AsrDeployError as error:
        if expected is None:
            raise AsrDeployError(f"{str(error).rstrip('.')}. Delete {path} to download it again.") from error
        raise
    if expected is None:  # only after loading, because the digest of a wrong download would refuse the right file later
        write_text(record, found + "\n")
    return model


def _without_unused_rows(state: dict[str, Tensor], case: TestCase, source: str, *, usual: bool) -> dict[str, Tensor]:
    """Return weights without the rows of the head that no label uses: of the published checkpoint, or those that pad the head."""
    head, published = state.get("aux.weight"), unused_rows(case)
    extra = len(case.labels) + len(published)
    if head is None or head.ndim != 2 or len(head) != extra:
        return state
    found = padding_or_dictionary(head) if published == UNUSED_ROWS else published
    unused = found or published
    keep = [row for row in range(extra) if row not in unused]
    if unused != published or (found is None and not usual):  # in doubt about a file of the user, tell what was taken
        say_unnamed(source, extra, keep)
    return {
        name: tensor[keep] if name in ("aux.weight", "aux.bias") and tensor.shape[:1] == (extra,) else tensor
        for name, tensor in state.items()
    }
