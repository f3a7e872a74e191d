"""Bring the weights of foreign checkpoints under TorchAudio's names, and leave out what only training uses."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from device_runner.errors import AsrDeployError, say_once
from toolchain.models.custom.families import FAMILIES
from toolchain.models.custom.hugging_face import HEAD, NORMS, their_name, torchaudio_name
from toolchain.models.weight_files import State, listed

# Names that torch puts between those of modules: torch.compile, FSDP, activation checkpoints.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
FIRST = "feature_extractor.conv_layers.0.conv.weight"  # in every checkpoint; what precedes it is a prefix
FIRST_IN_FAIRSEQ = "feature_extractor.conv_layers.0.0.weight"
HUGGING_FACE = ("feature_projection.", "encoder.layers.", "encoder.pos_conv_embed.")  # TorchAudio has these below others
# Weights of masking, and of the quantiser and the targets of pre-training. A name that ends with a dot is that of a module.
IN_TRAINING_ALONE = (
    *("masked_spec_embed", "mask_time_emb_vector", "mask_emb", "mask_generator."),
    *("quantizer.", "project_q.", "project_hid.", "final_proj.", "label_embs_concat", "target_glu.", "logit_generator."),
    "n_averaged",  # the counter of torch.optim.swa_utils.AveragedModel
)
OURS = ("feature_extractor.", "encoder.", "aux.")


@dataclass(frozen=True)
class Named:
    """Weights under TorchAudio's names.

    Args:
        state: Weights by name.
        hugging_face: Whether the checkpoint has Hugging Face's names.
        original: Function from TorchAudio's name of a weight to that in the checkpoint, for messages.
    """

    state: State
    hugging_face: bool
    original: Callable[[str], str]


@dataclass(frozen=True)
class Spelling:
    """How a checkpoint spells the names of weights.

    Args:
        outer: Prefix of all names, such as ``module.``.
        inner: Prefix of the names except those of the head, such as ``module.wav2vec2.``.
        hugging_face: Whether the names after the prefix are Hugging Face's.
    """

    outer: str = ""
    inner: str = ""
    hugging_face: bool = False

    def ours(self, name: str) -> str | None:
        """Return TorchAudio's name of a weight; None if only training uses the weight."""
        own, base = name.removeprefix(self.outer), name.removeprefix(self.inner)
        if any(each == start or (start.endswith(".") and each.startswith(start)) for each in (own, base) for start in IN_TRAINING_ALONE):
            return None
        if self.hugging_face:
            candidate = torchaudio_name(own if own.startswith(HEAD) else name, self.inner)
            return candidate if candidate.startswith(OURS) else name
        old = next((each for each in NORMS if base.endswith(each)), None)
        base = base if old is None else base.removesuffix(old) + NORMS[old]
        return base if name.startswith(self.inner) and base.startswith(OURS) else name

    def theirs(self, name: str) -> str:
        """Return a checkpoint's name of a weight, from TorchAudio's."""
        if not self.hugging_face:
            return self.inner + name if name.startswith(OURS) else name
        found = their_name(name, self.inner)
        return self.outer + found if found.startswith(HEAD) else found


@dataclass
class _Changes:
    """What is told about a checkpoint."""

    left_out: list[str] = field(default_factory=list)
    norms: bool = False
    wrappers: set[str] = field(default_factory=set)


def under_our_names(state: State, source: str, remarks: Collection[str] = (), *, usual: bool = False, prefix: str | None = None) -> Named:
    """Return the weights of a checkpoint under TorchAudio's names, and say once what was renamed or left out.

    Prefixes of wrappers, such as ``module.`` of DataParallel, ``_orig_mod.`` of torch.compile and ``model.`` of Lightning, are removed.
    Names that are unknown remain, so that ``load_into`` refuses them.

    Args:
        state: Weights by the names in the checkpoint.
        source: Origin of the weights, for messages.
        remarks: Further remarks about the checkpoint; see ``read_checkpoint``.
        usual: Whether this is a published form, whose older weight norm and ``masked_spec_embed`` need no remark.
        prefix: Prefix of Hugging Face's names that is expected, which needs no remark; None for TorchAudio's names.

    Raises:
        AsrDeployError: If the names are fairseq's, or the checkpoint contains two models, or two weights of one name, or whole numbers.
    """
    changes, plain = _Changes(), {}
    for name in state:
        parts = name.split(".")
        changes.wrappers |= set(WRAPPERS) & set(parts)
        plain[name] = ".".join(part for part in parts if part not in WRAPPERS)
    spelling = _spelling(list(plain.values()), source)
    found: State = {}
    original: dict[str, str] = {}
    for name, tensor in state.items():
        ours = spelling.ours(plain[name])
        if ours is None:
            changes.left_out.append(name)
            continue
        if ours in found:
            raise AsrDeployError(f"{source} contains the same weight twice, as {original[ours]} and {name}. Save one model alone.")
        if ours.startswith(OURS) and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise AsrDeployError(f"{source}: {name} is of type {kind}. Give weights in floating point; asrdeploy does the quantisation.")
        changes.norms |= any(name.endswith(old) for old in NORMS)
        found[ours], original[ours] = tensor, name
    told = [*remarks, *_remarks(changes, spelling, found, usual=usual, prefix=prefix)]
    if told:
        say_once(f"{source}: {'; '.join(told)}.")
    return Named(found, spelling.hugging_face, lambda name: original.get(name) or spelling.theirs(name))


def _spelling(names: list[str], source: str) -> Spelling:
    if any(name.endswith(FIRST_IN_FAIRSEQ) for name in names):
        raise AsrDeployError(
            f"{source} has fairseq's names of weights. Convert it with transformers "
            "(convert_wav2vec2_original_pytorch_checkpoint_to_pytorch.py) and give the folder as the model."
        )
    inner = [name.removesuffix(FIRST) for name in names if name.endswith(FIRST) and name.removesuffix(FIRST)[-1:] in ("", ".")]
    if len(inner) > 1:
        prefixes = sorted(filter(None, inner))
        told = f"with{' no prefix and with' if '' in inner else ''} the prefix{'es' if len(prefixes) > 1 else ''} {listed(prefixes)}"
        raise AsrDeployError(f"{source} contains several models, {told}. Save one of them alone.")
    if not inner:
        return Spelling()
    prefix = inner[0]
    base = next((each.prefix for each in FAMILIES.values() if f".{prefix}".endswith(f".{each.prefix}")), "")
    theirs = any(name.startswith(prefix + start) for name in names for start in HUGGING_FACE)
    return Spelling(prefix.removesuffix(base), prefix, theirs)


def _remarks(changes: _Changes, spelling: Spelling, state: State, *, usual: bool, prefix: str | None) -> list[str]:
    told = []
    wrapped = sorted(f"{each}." for each in changes.wrappers)
    removed = spelling.inner if prefix is None and not spelling.hugging_face else spelling.outer
    if removed or wrapped:
        told.append(f"{listed([*([removed] if removed else []), *wrapped])} is removed from the names of the weights")
    if spelling.hugging_face and prefix is None:
        told.append("Hugging Face's names of the weights are replaced by TorchAudio's")
    if changes.norms and not usual:
        told.append("weight_g and weight_v are read as the newer form of weight norm")
    left_out = [each for each in changes.left_out if not (usual and each.endswith("masked_spec_embed"))]
    if left_out:
        told.append(f"{listed(left_out)} is left out, because only training uses it")
    kinds = {str(each.dtype).removeprefix("torch.") for name, each in state.items() if name.startswith(OURS)} - {"float32"}
    if kinds:
        told.append(f"weights in {' and '.join(sorted(kinds))} are converted to float32")
    return told
