"""Layouts: the files that other runtimes expect around an ONNX model."""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from device_runner.artifact import INNER, MANIFEST, PLAIN_LAYOUT
from device_runner.engines import Engine
from device_runner.errors import AsrDeployError
from device_runner.files import write_text
from device_runner.labels import BLANK, WORD_SEPARATOR
from device_runner.suggestions import nearest
from exporters.onnx.exporter import TOKENS, write_tokens
from exporters.recogniser import shortest_input
from exporters.schemes import ONNX, Scheme

PAD = "<pad>"  # the blank's name in vocabularies of Hugging Face
SPACE = "\u2581"  # the space's name in lists of tokens
ONLY_RATE = 16_000  # sherpa-onnx and onnx-asr resample to this rate whatever the files say
# transformers.js chooses a file by the suffix of its `dtype`: fp32, fp16, q8 and q4.
SUFFIXES = {"float32": "", "float16": "_fp16", "int8": "_quantized", "int4": "_q4"}

Stride = Callable[[], int]

logger = logging.getLogger("asrdeploy")


@dataclass(frozen=True)
class Contents:
    """What the files of a layout are written from.

    Args:
        model: Name of the model.
        labels: Labels by index, the blank first, ``|`` for the space.
        sample_rate: Sample rate of the waveform in hertz.
        minimum_samples: Shortest waveform that gives a frame.
        normalised_waveform: Whether the graph normalises the waveform.
    """

    model: str
    labels: tuple[str, ...]
    sample_rate: int
    minimum_samples: int
    normalised_waveform: bool


@dataclass(frozen=True)
class Layout:
    """A layout of files.

    Args:
        name: Its name for ``--layout``; several are separated by commas.
        check: Raises AsrDeployError if the layout cannot hold a model of these labels and sample rate.
        write: Writes the files other than the model into a folder. Its second argument returns the number of samples between two frames.
        files: Names of the files that ``write`` writes.
        place: Folder of the model and its manifest, relative to the layout's folder.
        suffixed: Whether the name of the model file says how weights are stored.
        log_probabilities: Whether the graph has the optional input ``input_lengths`` and the output ``logprobs``; None if both will do.
    """

    name: str
    check: Callable[[Contents], None]
    write: Callable[[Contents, Stride, Path], None]
    files: tuple[str, ...]
    place: str = ""
    suffixed: bool = False
    log_probabilities: bool | None = None

    def model_file(self, file_name: str, scheme: Scheme) -> str:
        """Return the path of the model file, relative to the layout's folder."""
        plain = Path(file_name)
        suffix = SUFFIXES[scheme.products] if self.suffixed else ""
        return str(Path(self.place) / f"{plain.stem}{suffix}{plain.suffix}")


def find_layout(name: str, format_name: str = ONNX) -> Layout:
    """Return a layout by name, or one that serves several runtimes from one folder.

    Args:
        name: A key of ``LAYOUTS``, or several separated by commas.
        format_name: Name of the format.

    Raises:
        AsrDeployError: If a layout is unknown, two contradict each other, or one does not exist for the format.
    """
    asked = [each.strip() for each in name.split(",")]
    for each in asked:
        if each not in LAYOUTS:
            raise nearest(each, LAYOUTS, "layout")
        if format_name != ONNX and each != PLAIN_LAYOUT:
            raise AsrDeployError(f"The layout {each} holds ONNX files only, not {format_name}. Use --format onnx, or leave out --layout.")
    found = [each for key, each in LAYOUTS.items() if key in asked]
    for one, other in combinations(found, 2):
        reason = _contradiction(one, other)
        if reason is not None:
            raise AsrDeployError(
                f"The layouts {one.name} and {other.name} contradict each other: {reason}. Export once for each, into different folders."
            )
    return found[0] if len(found) == 1 else _together(found)


def _contradiction(one: Layout, other: Layout) -> str | None:
    """Return why one folder cannot serve two runtimes; None if it can."""
    if None not in (one.log_probabilities, other.log_probabilities) and one.log_probabilities != other.log_probabilities:
        needs = one if one.log_probabilities else other
        return f"{needs.name} requires a second output of the model, which the other does not allow"
    shared = next((each for each in one.files if each in other.files and one.write is not other.write), None)
    return None if shared is None else f"each has a {shared} of its own"


def _together(layouts: Sequence[Layout]) -> Layout:
    def check(contents: Contents) -> None:
        for each in layouts:
            each.check(contents)

    def write(contents: Contents, stride: Stride, folder: Path) -> None:
        for each in layouts:
            each.write(contents, stride, folder)

    return Layout(
        name=",".join(each.name for each in layouts),
        check=check,
        write=write,
        files=tuple(dict.fromkeys(file for each in layouts for file in each.files)),
        place=max(each.place for each in layouts),  # at most one has a place
        suffixed=any(each.suffixed for each in layouts),
        log_probabilities=any(each.log_probabilities for each in layouts),
    )


def frame_stride(engine: Engine, minimum_samples: int, sample_rate: int) -> int:
    """Measure the number of samples between two frames: the fewest samples for three frames minus the fewest for two.

    Args:
        engine: Engine of the exported model.
        minimum_samples: Shortest waveform that gives a frame.
        sample_rate: Sample rate in hertz.

    Raises:
        AsrDeployError: If a second of audio gives fewer than three frames.
    """
    import numpy as np

    longest = minimum_samples + sample_rate
    silence = np.zeros(longest, dtype=np.float32)

    def fewest(frames: int) -> int:
        found = shortest_input(lambda samples: len(engine.logits(silence[:samples])) - frames + 1, longest)
        if found is None:
            raise AsrDeployError(f"The model returns fewer than {frames} frames per second. This layout requires a finer model.")
        return found

    return fewest(3) - fewest(2)


# Lists of tokens: sherpa-onnx, onnx-asr


def _check_tokens(contents: Contents, layout: str) -> None:
    if contents.sample_rate != ONLY_RATE:
        raise AsrDeployError(
            f"{contents.model} takes audio at {contents.sample_rate} Hz, but {layout} runs such models at {ONLY_RATE} Hz only. "
            "Choose another --layout."
        )
    for label in contents.labels[1:]:
        if re.search(rf"\s|{SPACE}", label):
            raise _cannot_hold(contents, layout, label, "it contains a space, which separates the columns of the list of tokens")
        if label == "<blk>":
            raise _cannot_hold(contents, layout, label, "this is the name of the blank")


def _check_sherpa(contents: Contents) -> None:
    _check_tokens(contents, "sherpa-onnx")
    for label, number in Counter(label for label in contents.labels[1:] if label).items():
        if number > 1:
            raise _cannot_hold(contents, "sherpa-onnx", label, f"{number} outputs have it")
        if label == "SIL" or re.fullmatch("<0x[0-9A-Fa-f]{2}>", label):
            raise _cannot_hold(contents, "sherpa-onnx", label, "sherpa-onnx gives it a meaning of its own")
    if not contents.normalised_waveform:
        logger.warning(
            f"sherpa-onnx normalises every waveform, but {contents.model} was trained without. Some of its transcripts will differ from "
            "those of asrdeploy."
        )


def _check_onnx_asr(contents: Contents) -> None:
    _check_tokens(contents, "onnx-asr")


def _check_transformers(contents: Contents) -> None:
    for label, number in Counter(label for label in contents.labels[1:] if label).items():
        if number > 1:
            raise _cannot_hold(contents, "transformers", label, f"{number} outputs have it, but vocab.json has one of each")
        if WORD_SEPARATOR in label and label != WORD_SEPARATOR:
            raise _cannot_hold(
                contents, "transformers", label, f"its tokenizer takes {WORD_SEPARATOR} for a space only where it stands alone"
            )
        if label == PAD:
            raise _cannot_hold(contents, "transformers", label, "this is the name of the blank")


def _cannot_hold(contents: Contents, layout: str, label: str, reason: str) -> AsrDeployError:
    return AsrDeployError(f"The layout {layout} cannot hold the label {label!r} of {contents.model}: {reason}. Choose another --layout.")


def _write_tokens(contents: Contents, stride: Stride, folder: Path) -> None:
    write_tokens(contents.labels, folder / TOKENS)


def _write_onnx_asr(contents: Contents, stride: Stride, folder: Path) -> None:
    write_tokens(contents.labels, folder / "vocab.txt")
    _write_json(folder / "config.json", {"model_type": "wav2vec2-ctc", "subsampling_factor": stride()})


# Hugging Face


def _write_transformers(contents: Contents, stride: Stride, folder: Path) -> None:
    vocabulary = vocabulary_of(contents.labels)
    unused = {index: name for name, index in vocabulary.items() if index and not contents.labels[index]}
    known = {
        f"{key}_token": (f"<{name}>" if f"<{name}>" in vocabulary else None) for key, name in (("unk", "unk"), ("bos", "s"), ("eos", "/s"))
    }
    # The clean-up of the CTC decoder would join words that start with an apostrophe.
    decoders: list[dict[str, Any]] = [{"type": "CTC", "pad_token": PAD, "word_delimiter_token": WORD_SEPARATOR, "cleanup": False}]
    for name, text in {WORD_SEPARATOR: " ", **dict.fromkeys(unused.values(), "")}.items():
        decoders.append({"type": "Replace", "pattern": {"String": name}, "content": text})
    _write_json(folder / "vocab.json", vocabulary)
    _write_json(
        folder / "tokenizer_config.json",
        known
        | {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": PAD,
            "word_delimiter_token": WORD_SEPARATOR,
            "replace_word_delimiter_char": " ",
            "do_lower_case": False,
            "clean_up_tokenization_spaces": False,
        },
    )
    _write_json(
        folder / "tokenizer.json",  # for transformers.js, which has no tokenizer for vocab.json
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],  # it drops special tokens before it merges repeated ones, which loses doubled letters
            "normalizer": None,
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False},
            "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"vocab": vocabulary},
        },
    )
    _write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "processor_class": "Wav2Vec2Processor",
            "feature_size": 1,
            "sampling_rate": contents.sample_rate,
            "padding_side": "right",
            "padding_value": 0.0,
            "do_normalize": False,  # the graph normalises, or the model was trained without
            "return_attention_mask": False,
        },
    )
    # A stack of convolutions without padding gives as many frames as one of its receptive field and the product of its strides.
    config: dict[str, Any] = {
        "model_type": "wav2vec2",  # the class of the client; a graph runs whatever its architecture
        "architectures": ["Wav2Vec2ForCTC"],
        "vocab_size": len(contents.labels),
        "pad_token_id": BLANK,
        "num_feat_extract_layers": 1,
        "conv_dim": [512],
        "conv_kernel": [contents.minimum_samples],
        "conv_stride": [stride()],
    }
    _write_json(folder / "config.json", config)


def vocabulary_of(labels: Sequence[str]) -> dict[str, int]:
    """Return the vocabulary of a Hugging Face tokenizer: ``<pad>`` for the blank, ``<INDEX>`` for an output without label."""
    return {PAD: BLANK} | {label or f"<{index}>": index for index, label in enumerate(labels) if index != BLANK}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


HUGGING_FACE = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json", "tokenizer.json")
LAYOUTS: dict[str, Layout] = {
    each.name: each
    for each in (
        Layout(PLAIN_LAYOUT, lambda contents: None, _write_tokens, (TOKENS,)),
        Layout("onnx-asr", _check_onnx_asr, _write_onnx_asr, ("vocab.txt", "config.json"), log_probabilities=True),
        Layout("sherpa-onnx", _check_sherpa, _write_tokens, (TOKENS,), log_probabilities=False),
        Layout("transformers", _check_transformers, _write_transformers, HUGGING_FACE, place=INNER, suffixed=True),
    )
}


def written_files(models: Iterable[str]) -> set[str]:
    """Return the names of all files that an export may write, in any layout and scheme.

    Args:
        models: Names of the model files of all formats.
    """
    plain = [Path(each) for each in models]
    named = {f"{each.stem}{suffix}{each.suffix}" for each in plain for suffix in ("", *SUFFIXES.values())}
    return {MANIFEST, *named, *(name for each in LAYOUTS.values() for name in each.files)}
