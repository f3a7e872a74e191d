"""Tables of the command line."""

from collections.abc import Iterable

from rich.table import Table

from device_runner.artifact import Artifact
from exporters.schemes import Scheme
from toolchain.evaluate import Evaluation
from toolchain.points import Curve
from toolchain.testcases import TestCase


def _megabit(bits: int) -> str:
    return f"{bits / 1e6:,.0f} Mbit" if bits >= 1e8 else f"{bits / 1e6:,.2f} Mbit"


def _facts(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def test_cases(cases: Iterable[TestCase]) -> Table:
    """Draw the test cases."""
    table = Table(
        "number", "model", "numParam", "sizeAnc", "werAnc", "wer range", "normalised waveform", title="Test cases", title_justify="left"
    )
    for case in cases:
        wer = case.anchor.wer
        range_ = f"{wer:.1%} .. {wer + case.wer_range:.1%}" if wer is not None else f"anchor .. anchor + {case.wer_range:.0%}"
        row = (f"{case.anchor.num_param:,}", _megabit(case.anchor.size_bits), f"{wer:.1%}" if wer is not None else "measured", range_)
        table.add_row(str(case.number), case.name, *row, "yes" if case.anchor.normalised_waveform else "no")
    return table


def schemes(known: Iterable[Scheme]) -> Table:
    """Draw the schemes."""
    table = Table("scheme", "formats", "weight bits", "scale per", "activations", "what it does", title="Schemes", title_justify="left")
    for scheme in known:
        table.add_row(
            scheme.name, ", ".join(scheme.formats), str(scheme.weight_bits), scheme.granularity, scheme.activations, scheme.summary
        )
    return table


def artifact(made: Artifact, case: TestCase, seconds: float) -> Table:
    """Draw what an export made, with its distance to torch."""
    manifest = made.manifest
    rows = {
        "model": manifest.model,
        "weights": manifest.weights + ("" if manifest.trained else " (for size and latency only)"),
        "format, scheme": f"{manifest.format}, {manifest.scheme}",
        "parameters": f"{manifest.parameters:,}",
        "anchor size": _megabit(case.anchor.size_bits),
        "artifact size": f"{made.size_bytes / 1e6:,.2f} MB, cSize {made.size_bytes * 8 / case.anchor.size_bits:.4f}",
        "export": f"{seconds:.1f} s",
    }
    rows |= {f"quantised: {what}": str(count) for what, count in manifest.quantised.items()}
    for parity in manifest.parity:
        rows[f"distance to torch, {parity.seconds:g} s of speech"] = (
            f"largest {parity.largest:.2g}, mean {parity.mean:.2g}, relative {parity.relative:.2%}, same label {parity.equal_arg_max:.1%}"
        )
    return _facts("Artifact", rows)


def evaluation(result: Evaluation) -> Table:
    """Draw the result of an accuracy run."""
    low, high = result.wer_interval
    rows = {
        "configuration": result.configuration,
        "data": f"{result.data} {result.split}, {result.utterances} utterances, {result.words} words",
        "word error rate": f"{result.wer:.2%} (95 % interval {low:.2%} .. {high:.2%})",
        "errors": f"{result.substitutions} substitutions, {result.deletions} deletions, {result.insertions} insertions",
        "size": _megabit(result.size_bits) + (f", cSize {result.c_size:.4f}" if result.c_size is not None else ""),
        "audio, computing": f"{result.audio_seconds:.1f} s, {result.compute_seconds:.1f} s",
        "real-time factor": f"{result.real_time_factor:.4f} on {result.threads} thread(s)",
    }
    return _facts("Evaluation", rows)


def curve(drawn: Curve) -> Table:
    """Draw the points of a curve."""
    table = Table(title=f"{drawn.test_case} on {drawn.data} {drawn.split}", title_justify="left")
    for column in ("configuration", "sent", "size", "cSize", "bits/param", "wer", "95 % interval", "in range", "RTF"):
        table.add_column(column, justify="left" if column in ("configuration", "sent") else "right")
    low, high = drawn.anchor_wer_interval
    bits = drawn.anchor_size_bits
    table.add_row(
        "anchor (torch, fp32)", "—", _megabit(bits), "1.0000", "32.00", f"{drawn.anchor_wer:.2%}", f"{low:.2%} .. {high:.2%}", "", ""
    )
    table.add_section()
    for point in drawn.points:
        interval = f"{point.wer_low:.2%} .. {point.wer_high:.2%}"
        place = "yes" if point.in_range else ("below" if point.wer < drawn.anchor_wer else "above")
        figures = (
            f"{point.c_size:.4f}",
            f"{point.bits_per_parameter:.2f}",
            f"{point.wer:.2%}",
            interval,
            place,
            f"{point.real_time_factor:.4f}",
        )
        table.add_row(point.configuration, point.sent, _megabit(point.size_bits), *figures)
    return table
