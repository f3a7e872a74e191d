"""Load and check custom models: Hugging Face folders, checkpoints with a TOML file, and Python factories."""

from dataclasses import replace
from pathlib import Path

from device_runner.errors import AsrDeployError
from device_runner.home import in_home
from toolchain.models.anchor_model import AnchorModel, model_with, with_random_weights
from toolchain.models.custom import description
from toolchain.models.custom.checkpoints import from_folder, from_toml
from toolchain.models.custom.factories import factory_again, load_factory
from toolchain.models.custom.hub import fetch, hub_model, origin, say_if_both
from toolchain.models.custom.identity import description_digest, network_of
from toolchain.models.test_cases import CHECKPOINTS, CONFIG, DESCRIPTION, FACTORY, TestCase, names_hub_model, with_language
from toolchain.models.weight_files import digest_of_file, read_state, read_tuned_on


def load_custom(name: str, weights: str | None = None, seed: int = 0) -> AnchorModel:
    """Load a custom model; see ``docs/custom-models.md``.

    Args:
        name: A Hugging Face folder, or ``FOLDER:LANGUAGE`` for one of several languages; a model on the Hub (``ORGANISATION/NAME``,
            ``…@REVISION``, ``…:LANGUAGE``); ``FILE.toml``, or ``FILE.safetensors``, ``FILE.pt`` or ``FILE.pth`` with ``FILE.toml`` in the
            same folder; or ``package.module:factory``.
        weights: None for the weights of the model itself; ``random``; another custom model of the same architecture and labels; or a
            file that ``asrdeploy decompress`` wrote.
        seed: Seed of random weights.

    Raises:
        AsrDeployError: If the model does not exist, is not valid, or is not supported.
    """
    model = _load(name)
    if weights is None:
        return model
    if weights == "random":
        if network_of(model.case).architecture is None:
            raise AsrDeployError(f"--weights random: the factory {name} creates the weights. Leave --weights out.")
        made = with_random_weights(model.case, seed)
        return replace(made, weights=f"{made.weights}, {description_digest(model.case)}")
    return with_weights(model.case, weights, model)


def with_weights(case: TestCase, weights: str, model: AnchorModel | None = None) -> AnchorModel:
    """Return the model of a test case with other weights.

    Args:
        case: Test case of a custom model.
        weights: Value of ``--weights`` or ``--base``: another custom model of the same architecture and labels, or a file that
            ``asrdeploy decompress`` wrote.
        model: Model of the test case. It is required for weights from a file if a factory makes the network.

    Raises:
        AsrDeployError: If the weights do not fit, or the order of their labels is unknown.
    """
    path = Path(in_home(weights))
    tuned_on = read_tuned_on(path) if path.is_file() and not description.file_of(path).is_file() else None
    if tuned_on is not None:
        told = description_digest(case) if model is None or network_of(case).factory is None else model.weights
        source, state = f"file, sha256 {digest_of_file(path)[:16]}, {told}", read_state(path)
        if model is not None:
            return model.with_state(state, source, trained=True, tuned_on=tuned_on)
        return model_with(case, state, source, trained=True, tuned_on=tuned_on)
    if path.is_file() and path.suffix != DESCRIPTION and not description.file_of(path).is_file():
        read_state(path)  # if it cannot be read, that is what is wrong
        raise AsrDeployError(
            f"{path} does not define the labels of its outputs. Give a Hugging Face folder, a checkpoint with a {DESCRIPTION} file, "
            "or a file that `asrdeploy decompress` wrote."
        )
    other = _load(weights)
    ours, theirs = (each.model_copy(update={"factory": each.factory and "any"}) for each in map(network_of, (case, other.case)))
    if ours != theirs:
        raise AsrDeployError(f"{weights} does not fit {case.name}: their architectures, labels or sample rates differ.")
    if ours.architecture is None:  # run the code of this test case, not that of the weights
        around = factory_again(case) if model is None else model
        return around.with_state(other.state(), other.weights, trained=other.trained, tuned_on=other.tuned_on)
    return replace(other, case=case)


def _load(name: str) -> AnchorModel:
    if names_hub_model(name):
        asked = hub_model(name)
        folder, commit = fetch(asked)
        model = from_folder(folder, asked.language)
        return replace(model, weights=f"{model.weights}, {origin(asked, commit)}")
    name, language = with_language(in_home(name))
    path = Path(name)
    if path.is_dir():
        say_if_both(name)
        return from_folder(path, language)
    file = path.is_file()
    if file and path.suffix != DESCRIPTION and not description.file_of(path).is_file() and (path.parent / CONFIG).is_file():
        raise AsrDeployError(f"{path} is a file of a Hugging Face folder. Give the folder {path.parent} as the model.")
    if path.suffix == DESCRIPTION or path.suffix in CHECKPOINTS:
        if not file:
            raise AsrDeployError(f"{path} does not exist. Give a checkpoint with a {DESCRIPTION} file of the same name in its folder.")
        return from_toml(description.file_of(path), path if path.suffix in CHECKPOINTS else None)
    if FACTORY.fullmatch(name):
        return load_factory(name)
    what = "is not a model" if path.exists() else "does not exist"
    raise AsrDeployError(
        f"{name} {what}. Give a test case, a Hugging Face folder, a FILE{DESCRIPTION}, or package.module:factory as the model."
    )
