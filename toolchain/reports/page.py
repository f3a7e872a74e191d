"""The report's files: points, savings, comparisons, plots, and an HTML page that works without a network."""

import base64
import io
import json
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import soundfile
from jinja2 import Environment, FileSystemLoader

from device_runner.decoding import WHOLE, decode
from device_runner.errors import AsrDeployError
from device_runner.files import write_json, write_text
from device_runner.transcripts import Transcript
from toolchain.accuracy.comparison import ANCHOR, Comparison, alignment, compare
from toolchain.data.datasets import Utterance, open_data
from toolchain.reports.plots import plot_curve
from toolchain.reports.savings import Saving, label, reservations, savings, transcripts_of
from toolchain.scenario.points import Curve, Point, pareto, write_curve

WORST = 5  # utterances shown for each configuration
MOST_AUDIO = 8_000_000  # total bytes of recordings in the page
LARGEST_RECORDING = 500_000  # bytes
SIZES = [round(each * 10.0**power, 4) for power in (-3, -2, -1) for each in (1, 1.5, 2, 3, 4, 5, 7)] + [1.0]  # axis labels of the plot
# Formats that browsers play. Others, segments and single channels are written as FLAC.
FORMATS = {".flac": "audio/flac", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".opus": "audio/ogg"}


@dataclass(frozen=True)
class Report:
    """A written report.

    Args:
        savings: Bits saved between methods.
        comparisons: WER differences between configurations.
        missing: Sentences on what the page lacks.
        files: Paths of the written files.
    """

    savings: list[Saving]
    comparisons: list[Comparison]
    missing: list[str]
    files: list[Path]


def write_report(curve: Curve, folder: Path, data: str | None = None) -> Report:
    """Write the report of a curve into a folder: ``points``, ``savings``, ``comparisons``, ``curve`` and ``report.html``.

    Args:
        curve: Curve of one test case, with points of one or several methods.
        folder: Output folder; it is created if needed.
        data: Name or folder of the data set with the recordings; None uses the data set of the curve.

    Raises:
        AsrDeployError: Transcripts are damaged or cover different utterances, or the folder cannot be written.
    """
    found, missing = transcripts_of(curve)
    saved, comparisons = savings(curve), compare(found)
    write_curve(curve, folder)
    write_json(folder / "savings.json", [asdict(each) for each in saved])
    write_json(folder / "comparisons.json", [asdict(each) for each in comparisons])
    for ending in ("png", "svg"):
        plot_curve(curve, folder / f"curve.{ending}")
    worst = {name: _worst(lines, found.get(ANCHOR)) for name, lines in found.items() if name != ANCHOR}
    recordings, lacking = _recordings(curve, data, [each["id"] for shown in worst.values() for each in shown])
    against_anchor = {each.ours: each for each in comparisons if each.theirs == ANCHOR}
    rows = [_row(point, against_anchor.get(label(point)), worst.get(label(point), [])) for point in curve.points]
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("report.html.j2")
    text = page.render(
        curve=curve,
        plot=_plot(curve),
        rows=rows,
        # "</" ends a script element, even within a JSON string.
        facts=json.dumps({"rows": rows, "recordings": recordings}).replace("<", "\\u003c"),
        methods=sorted({each.method for each in saved}, key=lambda name: -median(each.share for each in saved if each.method == name)),
        savings={(each.method, each.against): each for each in saved},
        pairs=[each for each in comparisons if each.theirs != ANCHOR],
        sentences=[*reservations(curve), *missing, *lacking],
    )
    write_text(folder / "report.html", text)
    names = ("points.csv", "points.json", "savings.json", "comparisons.json", "curve.png", "curve.svg", "report.html")
    return Report(saved, comparisons, [*missing, *lacking], [folder / name for name in names])


def _row(point: Point, distance: Comparison | None, worst: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the page shows about a point."""
    return {
        "name": label(point),
        "point": point.model_dump(mode="json", exclude={"evaluation"}),
        "distance": None if distance is None else asdict(distance),
        "configuration": _configuration(point),
        "worst": worst,
    }


def _configuration(point: Point) -> dict[str, Any]:
    """Return the settings and results of a point from the files next to its transcripts."""
    found: dict[str, Any] = {}
    for path in (point.evaluation.parent / "configuration.json", point.evaluation / "result.json"):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(facts, dict):
            found |= facts
    return found


def _worst(lines: list[Transcript], anchors: list[Transcript] | None) -> list[dict[str, Any]]:
    """Return the utterances with the most errors above the anchor's, then those with the most errors."""
    before = {each.id: each for each in anchors or []}
    ordered = sorted(lines, key=lambda each: (each.errors - (before[each.id].errors if before else 0), each.errors), reverse=True)
    return [
        {
            "id": each.id,
            "errors": each.errors,
            "words": each.words,
            "anchor_errors": before[each.id].errors if before else None,
            "anchor": before[each.id].hypothesis if before else None,
            "alignment": alignment(each.reference, each.hypothesis),
        }
        for each in ordered[:WORST]
        if each.errors
    ]


def _recordings(curve: Curve, data: str | None, ids: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return recordings as data URIs by utterance id, and a sentence on those that are omitted."""
    if not ids:
        return {}, []
    try:
        chosen = open_data(data or curve.data, curve.split, download_allowed=False)
    except AsrDeployError as error:
        return {}, [f"The page contains no recordings. Give their location with --data. {error}"]
    utterances = {each.id: each for each in chosen.utterances}
    found: dict[str, str] = {}
    left_out, size = 0, 0
    for each in dict.fromkeys(ids):
        kind, content = _playable(utterances[each]) if each in utterances else ("", b"")
        if not content or len(content) > LARGEST_RECORDING or size + len(content) > MOST_AUDIO:
            left_out += 1
            continue
        size += len(content)
        found[each] = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    sentence = f"{left_out} recordings are not in the page (limits: {MOST_AUDIO / 1e6:g} MB in total, {LARGEST_RECORDING / 1e6:g} MB each)."
    return found, [sentence] if left_out else []


def _playable(utterance: Utterance) -> tuple[str, bytes]:
    """Return the media type and the bytes of a recording; no bytes if the file is larger than the page may hold."""
    kind = FORMATS.get(utterance.path.suffix.lower())
    if kind is not None and utterance.part == WHOLE:
        small = utterance.path.stat().st_size <= LARGEST_RECORDING
        return kind, utterance.path.read_bytes() if small else b""
    found, buffer = decode(utterance.path, utterance.part), io.BytesIO()
    soundfile.write(buffer, found.samples, found.rate, format="FLAC")
    return FORMATS[".flac"], buffer.getvalue()


def _plot(curve: Curve) -> str:
    """Return the curve as an interactive plot in HTML, including plotly's script."""
    import plotly.graph_objects as go

    figure = go.Figure()
    top = curve.anchor_wer + curve.wer_range
    figure.add_hrect(curve.anchor_wer, top, fillcolor="green", opacity=0.08, line_width=0)
    figure.add_hline(
        curve.anchor_wer, line_dash="dash", line_color="green", annotation_text="anchor, fp32", annotation_position="bottom left"
    )
    front = pareto(curve.points)
    figure.add_scatter(
        x=[each.c_size for each in front],
        y=[each.wer for each in front],
        mode="lines",
        name="Pareto front",
        line={"color": "rgba(120,120,120,0.35)", "width": 8},
        hoverinfo="skip",
    )
    numbers = {id(point): number for number, point in enumerate(curve.points)}
    for method in dict.fromkeys(point.method for point in curve.points):
        points = sorted((point for point in curve.points if point.method == method), key=lambda point: point.c_size)
        figure.add_scatter(
            x=[point.c_size for point in points],
            y=[point.wer for point in points],
            error_y={
                "array": [max(point.wer_high - point.wer, 0) for point in points],
                "arrayminus": [max(point.wer - point.wer_low, 0) for point in points],
                "thickness": 0.7,
            },
            mode="lines+markers" if points[0].sent == "bitstream" else "markers",
            marker={"size": 9},
            name=escape(method),  # plotly interprets tags
            text=[escape(point.configuration) for point in points],
            customdata=[numbers[id(point)] for point in points],
            hovertemplate="%{text}<br>cSize %{x:.4f}<br>WER %{y:.2%}<extra>%{fullData.name}</extra>",
        )
    highest = max([top, *(point.wer_high for point in curve.points if point.in_range)])
    figure.update_layout(
        template="plotly_white",
        height=520,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        # By default plotly labels a short logarithmic axis with single digits only.
        xaxis={
            "type": "log",
            "title": "cSize: bits transmitted / bits of the anchor",
            "tickvals": SIZES,
            "ticktext": [f"{each:g}" for each in SIZES],
        },
        yaxis={"tickformat": ".1%", "title": "WER", "range": [0, 1.15 * highest]},
    )
    return str(figure.to_html(full_html=False, include_plotlyjs=True, div_id="curve", config={"displaylogo": False}))
