"""Tables and plots of latency."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from device_runner import latency, latency_views
from device_runner.errors import AsrDeployError
from device_runner.latency import QUICK, LatencyResult, Steady, summarise
from tests.device_runner.latency_parts import noise, steady
from tests.helpers import artifact_of, convolution


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> LatencyResult:
    """The real thing: fresh processes, onnxruntime, two lengths."""
    artifact = artifact_of(tmp_path_factory.mktemp("tiny") / "artifact", convolution())
    return latency.measure([artifact], noise(0.2, 0.5), threads=1, conditions=QUICK)[0]


def with_steady(result: LatencyResult, measured: Steady, **facts: object) -> LatencyResult:
    return result.model_copy(update={"steady": (measured,), "artifact": result.artifact.model_copy(update=facts)})


def test_summary_table_shows_milliseconds(result: LatencyResult) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(latency_views.summary_table(with_steady(result, steady(median=0.05, runs=10))))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "50.00" in text and "–" in text and "0.0250" in text and "not valid" in text and "1 thread" in text
    console.print(latency_views.summary_table(with_steady(result, steady(median=0.05, runs=40))))
    assert text.count("50.00") == 3 and console.file.getvalue().count("50.00") == 7  # type: ignore[attr-defined]


def test_plot_is_a_png(result: LatencyResult, tmp_path: Path) -> None:
    path = tmp_path / "figures" / "latency.png"
    latency_views.plot([result, with_steady(result, steady())], path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 1000
    assert list(path.parent.iterdir()) == [path]


def test_plot_names_units_whiskers_and_random_weights(result: LatencyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: drawn.append(figure))
    random = with_steady(result, summarise(2.0, [[float(value) / 1e3 for value in range(1, 102)]]), trained=False, model="LARGE")
    latency_views.plot([random], tmp_path / "latency.png")
    axes = drawn[0].axes[0]
    assert axes.get_title().endswith("random weights: LARGE")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("audio length (s)", "latency (ms)")
    segment = axes.collections[0].get_segments()[0]
    assert np.allclose(segment, [[2, 51], [2, 91]])
    assert "not valid" in axes.get_legend().get_texts()[0].get_text()
    latency_views.plot([result], tmp_path / "latency.png")
    assert "random" not in drawn[1].axes[0].get_title()


def test_plot_keeps_emulated_devices_from_others(result: LatencyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: drawn.append(figure))
    emulated = result.model_copy(update={"facts": result.facts.model_copy(update={"kind": "emulator"}), "device": "emulator-5554"})
    latency_views.plot([result, emulated], tmp_path / "latency.png")
    latency_views.plot([emulated], tmp_path / "latency.png")
    labels = [[text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in drawn]
    assert len(labels[0]) == 1 and "emulator-5554" not in labels[0][0]
    assert "emulator-5554" in labels[1][0] and "function only" in drawn[1].axes[0].get_title()


def test_plot_that_cannot_be_drawn(result: LatencyResult, tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="no latency result"):
        latency_views.plot([], tmp_path / "latency.png")
    for name in ("latency.xyz", "latency"):
        with pytest.raises(AsrDeployError, match=r"Use a suffix such as \.png"):
            latency_views.plot([result], tmp_path / name)
