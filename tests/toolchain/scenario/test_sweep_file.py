"""Sweep files: external encoders, and codecs of other packages."""

import itertools
import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from device_runner import plugins
from tests.helpers import Completed, complaint
from toolchain.compression import codec
from toolchain.compression.bitstreams import read_weights
from toolchain.models.anchor_model import AnchorModel
from toolchain.scenario import sweep
from toolchain.scenario.points import read_curve
from toolchain.scenario.sweep import Sweep
from toolchain.scenario.sweep_file import Method, moved

ENCODER = """
import io, sys, zlib
import numpy as np
from safetensors.numpy import load_file
option, value, source, target = sys.argv[1:]
coded = {}
for name, weights in load_file(source).items():
    top = float(np.abs(weights).max()) or 1.0
    step = top * (float(value) if option == "--step" else 2.0 ** (1 - int(value)))
    coded["step " + name], coded["level " + name] = np.float32(step), np.round(weights / step).astype(np.int16)
file = io.BytesIO()
np.savez(file, **coded)
open(target, "wb").write(zlib.compress(file.getvalue()))
"""
DECODER = """
import io, sys, zlib
import numpy as np
from safetensors.numpy import save_file
found = np.load(io.BytesIO(zlib.decompress(open(sys.argv[1], "rb").read())))
names = [name[6:] for name in found if name.startswith("level ")]
save_file({name: (found["level " + name] * found["step " + name]).astype(np.float32) for name in names}, sys.argv[2])
"""
THEIRS = """
from dataclasses import dataclass
import numpy as np
from toolchain.compression.codec import Coded
@dataclass(frozen=True)
class Steps:
    step: float
    limit: int = 9999
    rule: str = "nearest"
    def code(self, state, calibration):
        for name, weights in state.items():
            levels = np.clip(np.round(weights / self.step), -self.limit, self.limit)
            yield name, Coded("fp32", (levels * self.step).astype("<f4").tobytes())
"""


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, str]:
    """A small external encoder and its decoder, as TOML commands."""
    (tmp_path / "encode.py").write_text(ENCODER)
    (tmp_path / "decode.py").write_text(DECODER)
    return {
        "encoder": f"{sys.executable} {tmp_path}/encode.py --bits {{rate}} {{input}} {{output}}",
        "decoder": f"{sys.executable} {tmp_path}/decode.py {{input}} {{output}}",
    }


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec of another package, ``steps``."""
    (tmp_path / "steps_codec.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "steps_codec", raising=False)
    points = [EntryPoint("steps", "steps_codec:Steps", codec.ENTRY_POINTS)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == codec.ENTRY_POINTS else [])


def test_an_external_encoder_is_searched(cli: Callable[..., Completed], commands: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sweeps.toml").write_text(
        f"""limit = 4
[[method]]
codec = "external"
set = {{ encoder = "{commands["encoder"]}" }}
decoder = "{commands["decoder"]}"
span = [4, 6]
whole = true
"""
    )
    done = cli("sweep", "--config", "sweeps.toml", "-o", "out")
    assert done.returncode == 0, done.stderr
    found = read_curve(tmp_path / "out")
    assert {each.method for each in found.points} == {f"external, {Path(sys.executable).name} encode.py --bits {{rate}}"}
    bits = [int(each.configuration.removeprefix("external-")) for each in found.points]
    assert bits == sorted(set(bits)) and set(bits) <= {4, 5, 6} and len(bits) > 1
    assert all(less.size_bits < more.size_bits for less, more in itertools.pairwise(found.points))
    for number, point in zip(bits, found.points, strict=True):
        made = json.loads((point.evaluation.parent / "configuration.json").read_text())
        assert made["decoder"] == commands["decoder"]
        assert made["parameters"] == {"encoder": commands["encoder"].replace("{rate}", str(number))}
    assert (tmp_path / "out" / "search.png").is_file() and "…" not in done.stdout


def test_external_points_follow_from_their_commands(
    cli: Callable[..., Completed], commands: dict[str, str], tiny: AnchorModel, tmp_path: Path
) -> None:
    text = f"""limit = 2
[[method]]
codec = "external"
name = "steps"
set = {{ encoder = "{commands["encoder"].replace("--bits", "--step")}" }}
decoder = "{commands["decoder"]}"
rates = [0.0625, 0.01234567]
"""

    def swept(described: str, *more: str) -> list[Path]:
        (tmp_path / "sweeps.toml").write_text(described)
        done = cli("sweep", "--config", "sweeps.toml", "-o", "out", *more)
        assert done.returncode == 0, done.stderr
        return sorted((tmp_path / "out").rglob("*.asrb"))

    first = swept(text)
    found = read_curve(tmp_path / "out")
    assert [(each.configuration, each.method) for each in found.points] == [("steps-0.01234567", "steps"), ("steps-0.0625", "steps")]
    coarse = found.points[1]
    assert coarse.size_bits < found.points[0].size_bits
    _, state = read_weights(coarse.evaluation.parent / "model.asrb", decoder=commands["decoder"])
    for name, weights in tiny.state().items():
        assert float((state[name] - weights).abs().max()) <= 0.0625 / 2 * float(weights.abs().max()) * 1.001
    times = {path: path.stat().st_mtime_ns for path in first}
    # Another name takes the place of the curve only if asked, and reuses the results; another decoder does not.
    renamed = text.replace('"steps"', '"again"')
    (tmp_path / "sweeps.toml").write_text(renamed)
    assert "holds the curve of “steps”" in complaint(cli("sweep", "--config", "sweeps.toml", "-o", "out"))
    assert len(first) == 2 and swept(renamed, "--replace") == first
    assert {path: path.stat().st_mtime_ns for path in first} == times
    assert len(swept(text.replace("decode.py", "./decode.py"), "--replace")) == 4


def test_the_external_programs_own_words_end_a_sweep(cli: Callable[..., Completed], commands: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sweeps.toml").write_text(
        f"""limit = 2
[[method]]
codec = "external"
set = {{ encoder = "{commands["encoder"]}" }}
decoder = "{commands["decoder"]}"
rates = [2.5]
"""
    )
    assert "failed with exit code 1: ValueError" in complaint(cli("sweep", "--config", "sweeps.toml", "-o", "out"), alone=False)


@pytest.mark.usefixtures("theirs")
def test_another_packages_codec_is_searched(cli: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep, "MOST_POINTS", 7)
    (tmp_path / "sweeps.toml").write_text(
        """limit = 3
[[method]]
codec = "steps"
vary = "step"
span = [0.9, 0.004]

[[method]]
codec = "steps"
vary = "limit"
set = { step = 0.02 }
rates = [3, 20]
"""
    )
    done = cli("sweep", "--config", "sweeps.toml", "-o", "out")
    assert done.returncode == 0, done.stderr
    found = read_curve(tmp_path / "out")
    searched = [each for each in found.points if each.method == "steps"]
    values = [float(each.configuration.removeprefix("steps-")) for each in searched]
    assert len(values) > 2 and values == sorted(values, reverse=True) and all(0.004 <= each <= 0.9 for each in values)
    assert [(each.configuration, each.method) for each in found.points[len(searched) :]] == [
        ("steps-3", "steps, step=0.02"),
        ("steps-20", "steps, step=0.02"),
    ]
    assert "which parameter to vary for steps" in complaint(cli("sweep", "--codec", "steps", "-o", "x"), alone=False)


EXTERNAL = 'codec = "external"\n'
ENCODE = 'set = { encoder = "cp {rate} {input} {output}" }\n'
DECODE = 'decoder = "cp {input} {output}"\n'


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (EXTERNAL + DECODE + "rates = [3]", "the encoder is missing"),
        (EXTERNAL + DECODE + "rates = [3]\nset = { encoder = 3 }", "the encoder is missing"),
        (EXTERNAL + DECODE + 'rates = [3]\nset = { encoder = "cp {input} {output}" }', "needs {rate} where the varied value belongs"),
        (EXTERNAL + DECODE + 'rates = [3]\nset = { encoder = "cp {rate} {input}" }', "must contain {input} and {output}"),
        (EXTERNAL + DECODE + 'rates = [3]\nset = { encoder = "cp \'{rate} {input} {output}" }', "is not valid: No closing quotation"),
        (EXTERNAL + ENCODE + "rates = [3]", "the decoder is missing"),
        (EXTERNAL + ENCODE + 'decoder = "cp {input}"\nrates = [3]', "must contain {input} and {output}"),
        (EXTERNAL + ENCODE + 'decoder = "cp {rate} {input} {output}"\nrates = [3]', "Remove {rate} from its command"),
        (EXTERNAL + ENCODE + DECODE, "either span"),
        (EXTERNAL + ENCODE + DECODE + "span = [2, 8]\nrates = [3]", "either span"),
        (EXTERNAL + ENCODE + DECODE + "span = [2, 2]", "nothing to search"),
        (EXTERNAL + ENCODE + DECODE + "span = [2.5, 8]\nwhole = true", "2.5 is not a whole number"),
        (EXTERNAL + ENCODE + DECODE + "rates = [3, 3.5]\nwhole = true", "3.5 is not a whole number"),
        (EXTERNAL + ENCODE + DECODE + "span = [2, inf]", "finite"),
        (EXTERNAL + ENCODE + DECODE + "span = [2]", "span"),
        (EXTERNAL + ENCODE + DECODE + "rates = [3]\nvary = 'qp'", "Leave vary out"),
        (EXTERNAL + ENCODE + DECODE + "rates = [3]\ncalibrate = true", "Leave calibrate out"),
        (EXTERNAL + ENCODE + DECODE + "rates = [3]\nname = 'a, b'", "name: String should match"),
        (f"{EXTERNAL}{ENCODE}{DECODE}rates = [3]\n[[method]]\n{EXTERNAL}{ENCODE}{DECODE}rates = [4]", "or set another name"),
        ("codec = 'uniform'\nspan = [2, 4]\nwhole = true", "Leave span, whole out"),
        ("codec = 'uniform'\n" + DECODE, "Leave decoder out"),
        ("codec = 'uniform'\nrates = [0]", "takes 2 to 8 bits"),
        ("codec = 'prune'\nrates = [-0.5]", "between 0 and 1"),
        ("codec = 'fp16'", "which parameter to vary for fp16"),
        ("codec = 'fp16'\nvary = 'bits'\nspan = [2, 3]", "has no parameters"),
        ("codec = 'stesp'\nvary = 'step'\nspan = [2, 3]", "Did you mean steps?"),
        ("codec = 'steps'\nspan = [2, 3]", "which parameter to vary for steps"),
        ("codec = 'steps'\nvary = 'step'", "either span"),
        ("codec = 'steps'\nvary = 'stop'\nspan = [2, 3]", "Did you mean step?"),
        ("codec = 'steps'\nvary = 'step'\nset = { step = 2 }\nspan = [2, 3]", "the sweep varies this parameter"),
        ("codec = 'steps'\nvary = 'limit'\nset = { step = 2 }\nspan = [2, 3]", "Add whole = true"),
        ("codec = 'steps'\nvary = 'limit'\nspan = [2, 3]\nwhole = true", "requires a value for step"),
        ("codec = 'steps'\nvary = 'limit'\nset = { step = 2 }\nrates = [2.5]", "steps: limit cannot be 2.5. Give a whole number"),
        ("codec = 'steps'\nvary = 'rule'\nset = { step = 2 }\nspan = [2, 3]", "is not a number, so a sweep cannot vary it"),
        ("codec = 'steps'\nvary = 'step'\nspan = [2, 3]\n" + DECODE, "Leave decoder out"),
    ],
)
def test_what_is_refused_is_one_sentence(text: str, words: str, cli: Callable[..., Completed], tmp_path: Path) -> None:
    (tmp_path / "sweeps.toml").write_text(f"[[method]]\n{text}\n")
    assert words in complaint(cli("sweep", "--config", "sweeps.toml", "-o", "out"), alone=False)
    assert not (tmp_path / "out" / "points").exists()


ENDS = st.one_of(st.integers(-60, 60).map(float), st.floats(-50, 50), st.floats(1e-4, 1))


@settings(max_examples=300, deadline=None)
@given(low=ENDS, high=ENDS, whole=st.booleans(), lowest=st.floats(0, 1))
def test_the_values_of_a_search_lie_in_its_span(low: float, high: float, whole: bool, lowest: float) -> None:
    low, high = (float(round(each)) if whole else each for each in (low, high))
    assume(abs(low - high) > 1e-3 and min(abs(each) or 1 for each in (low, high)) > 1e-4)
    rate = moved(Method(codec="theirs", vary="x", span=(low, high), whole=whole))
    assert rate is not None and 0 < rate.low < rate.high
    assert [rate.value_of(each) for each in (rate.low, rate.high)] == pytest.approx([low, high], rel=1e-3)
    made = object.__new__(Sweep)  # the choice of rates needs neither anchor nor data
    object.__setattr__(made, "moved", rate)
    asked: list[float] = []
    start = made._lowest(lambda each: asked.append(each) or each >= rate.low + lowest * (rate.high - rate.low))
    tried = made._first_rates(start)
    for _ in range(5):
        new = made._another_rate(tried)
        if new is None:
            break
        assert new not in tried
        tried.append(new)
    values = [rate.value_of(each) for each in sorted(tried)]
    assert values == sorted(values, reverse=high < low) and len(set(values)) == len(values)
    bottom, top, rounding = min(low, high), max(low, high), 0 if whole else 10**-rate.digits
    assert all(bottom - rounding <= each <= top + rounding for each in [*values, *map(rate.value_of, asked)])
    assert all(rate.rounded(each) == each for each in tried)
    assert not whole or all(isinstance(each, int) for each in values)
