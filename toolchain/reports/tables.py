"""Tables that the commands print."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from device_runner.artifact import PLAIN_LAYOUT, Artifact, Manifest, Parity
from device_runner.bitstream.format import Header
from device_runner.latency import FUNCTION_ONLY
from exporters.schemes import Scheme
from toolchain.accuracy.scoring import Evaluation
from toolchain.models.test_cases import TestCase
from toolchain.scenario.points import Curve

if TYPE_CHECKING:
    from exporters.inspection import Inspection  # imports onnx and PyTorch, which most tables do not need
    from toolchain.accuracy.comparison import Comparison
    from toolchain.compression.codec import Codec
    from toolchain.delivery.measurements import Delivery
    from toolchain.delivery.reception import Reception
    from toolchain.reports.savings import Saving
    from toolchain.scenario.sweep import Smallest


NAMED = 3  # recordings that a table names


def _megabit(bits: int) -> str:
    return f"{bits / 1e6:,.0f} Mbit" if bits >= 1e8 else f"{bits / 1e6:,.2f} Mbit"


def _facts(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def test_cases(cases: Iterable[TestCase]) -> Table:
    """Create the table of test cases; it fits 80 columns."""
    table = Table(title="Test cases (norm: waveforms are normalised)", title_justify="left", box=box.SIMPLE, padding=0)
    for column in ("no.", "model", "numParam", "sizeAnc", "werAnc", "WER range", "norm"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=column != "model")
    for case in cases:
        wer = case.anchor.wer
        rates = ("measured", "+5 points") if wer is None else (f"{wer:.1%}", f"{100 * wer:.1f} .. {wer + case.wer_range:.1%}")
        sizes = (f"{case.anchor.num_param:,}", _megabit(case.anchor.size_bits))
        table.add_row(
            "—" if case.number is None else str(case.number),
            case.name,
            *sizes,
            *rates,
            "yes" if case.anchor.normalised_waveform else "no",
        )
    return table


def bundles(cases: Iterable[TestCase]) -> Table:
    """Create the table of TorchAudio's models that are no test cases of the scenario; it fits 80 columns."""
    table = Table(title="Other models of TorchAudio (WER range: 5 points above their measured WER)", title_justify="left", box=box.SIMPLE)
    for column in ("model", "numParam", "sizeAnc", "labels", "norm"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for case in cases:
        normalised = "yes" if case.anchor.normalised_waveform else "no"
        table.add_row(case.name, f"{case.anchor.num_param:,}", _megabit(case.anchor.size_bits), str(len(case.labels)), normalised)
    return table


def custom_labels(case: TestCase, weights: str) -> str:
    """Describe what the table of test cases omits: labels, sample rate and the origin of the weights."""
    shown = " ".join(label or "(nothing)" for label in case.labels[1:41]) + (" …" if len(case.labels) > 41 else "")
    return f"{len(case.labels)} labels at {case.sample_rate:,} Hz: the blank, then {shown}\nWeights: {weights}"


def schemes(known: Iterable[Scheme]) -> Table:
    """Create the table of schemes."""
    table = Table("scheme", "formats", "calibrated", "description", title="Schemes", title_justify="left", box=box.SIMPLE)
    for each in known:
        table.add_row(each.name, "\n".join(each.formats), "yes" if each.calibrated else "no", each.summary)
    return table


def codecs(known: "Mapping[str, Callable[..., Codec]]") -> Table:
    """Create the table of codecs with their parameters and descriptions."""
    from toolchain.compression import defaults

    table = Table(title="Codecs", title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for column in ("codec", "parameters (--set)", "description"):
        table.add_column(column)
    for name, made in known.items():
        parameters = [f"{parameter}={value}" for parameter, value in defaults(made).items()]
        table.add_row(name, ", ".join(parameters), (made.__doc__ or "").strip().splitlines()[0])
    return table


def bitstream(header: Header, size: int, depth: int) -> Table:
    """Create the table of a bitstream.

    Args:
        header: Header of the bitstream.
        size: Size of the bitstream in bytes.
        depth: Number of module levels for the list of bytes by module; 0 omits the list.
    """
    weights = sum(each.elements for each in header.records)
    kinds: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for record in header.records:
        kinds[record.kind] += record.bytes
        modules[".".join(record.name.split(".")[:depth])] += record.bytes
    rows = {
        "codec": header.configuration,
        "model": f"{header.model}, {header.weights}" if header.model else "unknown",
        "bitstream": f"{size:,} bytes, {8 * size / max(weights, 1):.3f} bits per weight",
        "weights": f"{weights:,} in {len(header.records)} tensors",
    }
    rows |= {f"coded as {kind}": f"{number:,} bytes" for kind, number in kinds.most_common()}
    rows["overhead"] = f"{size - sum(kinds.values()):,} bytes"
    if header.base:
        rows["update of"] = f"weights with digest {header.base[:16]}"
    if depth:
        rows |= {f"  {module}": f"{number:,} bytes" for module, number in modules.most_common()}
    return _facts("Bitstream", rows)


def inspection(found: "Inspection", depth: int) -> list[Table]:
    """Create the tables of an artifact: facts, bytes by kind, bytes by module and operators.

    Args:
        found: Inspection of the artifact.
        depth: Number of module levels for the bytes by module.
    """
    manifest = found.artifact.manifest
    rate = manifest.sample_rate
    longest = "no limit" if manifest.maximum_samples is None else f"{manifest.maximum_samples / rate:g} s"
    rows = {
        "model, format, scheme": f"{manifest.model}, {manifest.format}, {manifest.scheme}",
        **_layout(manifest),
        "weights": manifest.weights + ("" if manifest.trained else " (for size and latency only)"),
        "parameters": f"{manifest.parameters:,}; numParam x 8 x 4 = {_megabit(32 * manifest.parameters)}",
        "file": f"{found.artifact.size_bytes / 1e6:,.2f} MB = {_megabit(8 * found.artifact.size_bytes)}, overhead: {found.overhead:.2%}",
        "weights by bit width": ", ".join(f"{number:,} in {bits} bits" for bits, number in found.elements_by_bits.items()),
        "numParam x 8 x N": f"{_megabit(found.nominal_bits)}, with N of each weight as stored",
        "quantised": ", ".join(f"{what}: {number}" for what, number in manifest.quantised.items()) or "nothing",
        "rewrites": ", ".join(manifest.rewrites) or "none",
        "input": f"{manifest.minimum_samples / rate:g} s .. {longest} at {rate} Hz",
        "runtime": found.runtime,
        "missing in mobile builds": found.lacking or "nothing known",
    }
    if manifest.planned_bytes is not None:
        rows["planned memory"] = f"{manifest.planned_bytes / 1e6:,.1f} MB for the longest input"
    rows |= _parities(manifest.parity)
    kinds = Table("stored as", "bytes", "share", title="Bytes by kind", title_justify="left")
    for kind, size in found.bytes_by_kind.items():
        kinds.add_row(kind, f"{size:,}", f"{size / found.artifact.size_bytes:.1%}")
    modules = Table("module", "bytes", "share", title="Bytes by module, largest first", title_justify="left")
    for name, size in found.bytes_by_module(depth).items():
        modules.add_row(name, f"{size:,}", f"{size / found.artifact.size_bytes:.1%}")
    operators = Table("operator", "count", "runtime", title="Operators", title_justify="left")
    for each in found.operators:
        operators.add_row(each.name, str(each.number), each.runs_in)
    return [_facts("Artifact", rows), kinds, modules, operators]


def artifact(made: Artifact, case: TestCase, seconds: float) -> Table:
    """Create the table of an exported artifact, with its difference from PyTorch.

    Args:
        made: The artifact.
        case: Test case of the model.
        seconds: Duration of the export in seconds.
    """
    manifest = made.manifest
    rows = {
        "model": manifest.model,
        "weights": manifest.weights + ("" if manifest.trained else " (for size and latency only)"),
        "format, scheme": f"{manifest.format}, {manifest.scheme}",
        **_layout(manifest),
        "parameters": f"{manifest.parameters:,}",
        "anchor size": _megabit(case.anchor.size_bits),
        "artifact size": f"{made.size_bytes / 1e6:,.2f} MB",
        "transmitted": f"{_megabit(made.transmitted_bits)}, cSize {made.transmitted_bits / case.anchor.size_bits:.4f}",
        "export time": f"{seconds:.1f} s",
    }
    rows |= {what: str(count) for what, count in manifest.quantised.items()}
    if manifest.planned_bytes is not None and manifest.maximum_samples is not None:
        longest = manifest.maximum_samples / manifest.sample_rate
        rows["planned memory"] = f"{manifest.planned_bytes / 1e6:,.1f} MB for {longest:g} s of audio"
    if manifest.portable:
        rows["portable kernels"] = ", ".join(f"{name} {number}" for name, number in manifest.portable.items())
    return _facts("Artifact", rows | _parities(manifest.parity))


def _layout(manifest: Manifest) -> dict[str, str]:
    return {} if manifest.layout == PLAIN_LAYOUT else {"layout": manifest.layout.replace(",", ", ")}


def _parities(measured: Iterable[Parity]) -> dict[str, str]:
    return {
        f"difference from PyTorch, {each.seconds:g} s of speech": (
            f"largest {each.largest:.2g}, mean {each.mean:.2g}, relative {each.relative:.2%}, same label {each.equal_arg_max:.1%}"
        )
        for each in measured
    }


def evaluation(result: Evaluation) -> Table:
    """Create the table of an evaluation."""
    rows = {
        "configuration": result.configuration,
        "data": f"{result.data} {result.split}, {result.utterances} utterances, {result.words} words",
        **_left_out(result),
        **_rates(result),
        "errors": ", ".join(
            f"{number} {what}{'s' * (number != 1)}"
            for number, what in ((result.substitutions, "substitution"), (result.deletions, "deletion"), (result.insertions, "insertion"))
        ),
        **_normalised(result),
        "size": _megabit(result.size_bits) + (f", cSize {result.c_size:.4f}" if result.c_size is not None else ""),
        "audio": f"{result.audio_seconds:.1f} s",
    }
    if result.device != "local":
        rows["device"] = f"{result.device}: {result.machine['model']}"
    if result.kind in FUNCTION_ONLY:
        rows["real-time factor"] = f"not reported: {result.kind} devices show whether a model works, not how fast it is"
    else:
        rows["real-time factor"] = f"{result.real_time_factor:.4f} per worker, {result.compute_seconds:.1f} s of computing time"
        rows["workers"] = f"{result.workers} with {result.threads} thread(s) each"
    return _facts("Evaluation", rows)


def _left_out(result: Evaluation) -> dict[str, str]:
    if not result.left_out:
        return {}
    names = ", ".join(each.id for each in result.left_out[:NAMED])
    more = f" and {len(result.left_out) - NAMED} more" if len(result.left_out) > NAMED else ""
    return {"left out": f"{len(result.left_out)}: {names}{more}; reasons in result.json"}


def _rates(result: Evaluation) -> dict[str, str]:
    """Return WER and CER, the main figure first."""
    rates = {
        "WER": f"{result.wer:.2%} (95 % interval {result.wer_interval[0]:.2%} .. {result.wer_interval[1]:.2%})",
        "CER": f"{result.cer:.2%} (95 % interval {result.cer_interval[0]:.2%} .. {result.cer_interval[1]:.2%})",
    }
    if result.main == "cer":
        return {
            "CER": f"{rates['CER']} of {result.characters} characters",
            "WER": f"{result.wer:.2%}, without meaning where no spaces separate words",
        }
    return rates


def _normalised(result: Evaluation) -> dict[str, str]:
    if (found := result.normalised) is None:
        return {}
    name, rate, (low, high), of = (
        ("CER", found.cer, found.cer_interval, f"{found.characters} characters")
        if result.main == "cer"
        else ("WER", found.wer, found.wer_interval, f"{found.words} words")
    )
    return {f"{name} after {found.normalizer}": f"{rate:.2%} of {of} (95 % interval {low:.2%} .. {high:.2%})"}


def smallest(found: "Smallest") -> Table:
    """Create the table of the smallest bitstream within a WER budget."""
    result = found.evaluation
    rows = {
        "configuration": found.configuration,
        **_left_out(result),
        "bitstream": f"{_megabit(result.size_bits)}, cSize {result.c_size:.4f}",
        "WER": f"{result.wer:.2%} (anchor: {found.anchor_wer:.2%})",
        "above the anchor": f"{100 * (result.wer - found.anchor_wer):+.2f} points, "
        f"95 % interval {100 * found.loss[0]:+.2f} .. {100 * found.loss[1]:+.2f} (paired by utterance)",
    }
    return _facts("Smallest bitstream within the WER budget", rows)


def savings(found: "Iterable[Saving]") -> Table:
    """Create the table of average bits saved between methods."""
    table = Table(title="Average bits saved at equal WER", title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for column in ("method", "against", "saving", "WER range"):
        table.add_column(column)
    for each in sorted(found, key=lambda saving: -saving.share):
        table.add_row(each.method, each.against, f"{each.share:+.1%}", f"{each.wer[0]:.2%} .. {each.wer[1]:.2%}")
    return table


def curve(drawn: Curve) -> Table:
    """Create the table of a curve's points; it fits 80 columns and omits what is only in the files."""
    from toolchain.reports.savings import label

    methods = Counter(method.split(", ")[0] for method in {point.method for point in drawn.points})
    sent = Counter(point.sent for point in drawn.points).most_common()
    usual, others = (sent[0][0] if sent else ""), " and ".join(kind for kind, _ in sent[1:])
    title = f"{drawn.test_case} on {drawn.data} {drawn.split}\nsize in Mbit; WER and 95 % interval in %"
    caption = "above: WER points above the anchor, and relative to it"
    if others:
        caption += f"\n* {others} sent to the UE, otherwise the {usual}"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE, padding=0)
    # Long names are wrapped; figures are never cut.
    table.add_column("configuration", overflow="fold", min_width=20)
    for column in ("size", "cSize", "WER", "interval", "above", "", "range"):
        table.add_column(column, justify="right", no_wrap=True)
    digits = 1 if drawn.anchor_size_bits >= 1e9 else 2

    def figures(bits: int, c_size: float, wer: float, low: float, high: float) -> list[str]:
        return [f"{bits / 1e6:.{digits}f}", f"{c_size:.4f}", f"{100 * wer:.2f}", f"{100 * low:.1f}..{100 * high:.1f}"]

    anchor = figures(drawn.anchor_size_bits, 1, drawn.anchor_wer, *drawn.anchor_wer_interval)
    table.add_row("anchor, PyTorch", *anchor, "", "", "", end_section=True)
    for point in drawn.points:
        name = label(point) if methods[point.method.split(", ")[0]] > 1 else point.configuration
        place = "in" if point.in_range else ("below" if point.wer < drawn.anchor_wer else "above")
        relative = "—" if point.relative is None else f"{point.relative:+.0%}"
        distance = (f"{100 * point.above_anchor:+.2f}", relative, place)
        row = figures(point.size_bits, point.c_size, point.wer, point.wer_low, point.wer_high)
        table.add_row(Text(name if point.sent == usual else f"{name} *"), *row, *distance)
    return table


def distances(comparisons: "Iterable[Comparison]") -> Table:
    """Create the table of WER differences between configurations and the anchor, with their significance."""
    title = "WER points above the anchor (paired bootstrap); share of utterances that are not worse"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for column in ("configuration", "points", "95 % interval", "p", "not worse"):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    for each in comparisons:
        if each.theirs == "anchor":
            interval = f"{100 * each.interval[0]:+.2f} .. {100 * each.interval[1]:+.2f}"
            table.add_row(each.ours, f"{100 * each.difference:+.2f}", interval, f"{each.p:.3f}", f"{each.not_worse:.1%}")
    return table


def reception(made: "Reception") -> Table:
    """Create the table of one reception."""
    seconds = made.seconds
    rows = {
        "model": made.model + ("" if made.trained else " (random weights)"),
        "codec": made.configuration,
        "received": f"{made.size_bytes / 1e6:,.3f} MB, {made.connections} connection(s)"
        + (f", resumed at byte {made.resumed_from:,}" if made.resumed_from else ""),
        "time to first transcript": f"{seconds.total:.3f} s",
    }
    rows |= {name.replace("_", " "): f"{value:.3f} s, {value / seconds.total:.1%}" for name, value in seconds}
    rows["total decoding time"] = f"{made.decode_busy:.3f} s"
    rows["peak memory"] = f"{(made.peak_bytes - made.baseline_bytes) / 1e6:,.1f} MB = {made.memory:.2f} times the float32 weights"
    rows["transcript"] = made.transcript
    return _facts("Reception", rows)


def delivery(result: "Delivery") -> Table:
    """Create the table of times to first transcript and their shares, with a row for each bitstream and rate."""
    first = result.bitstreams[0].receptions[0]
    model = first.model + ("" if first.trained else " (random weights)")
    title = f"{model}: seconds to the first transcript; memory in multiples of the float32 weights"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=0)
    for column in ("bitstream", "MB", "Mbit/s", "seconds", "transfer", "decode", "load", "infer", "memory"):
        table.add_column(column, justify="left" if column == "bitstream" else "right", no_wrap=column != "bitstream")
    for each in result.bitstreams:
        for made in each.receptions:
            shares = [f"{value / made.seconds.total:.0%}" for _, value in made.seconds]
            rate = "—" if made.bits_per_second is None else f"{made.bits_per_second / 1e6:g}"
            size = f"{made.size_bytes / 1e6:.3f}"
            table.add_row(each.name, size, rate, f"{made.seconds.total:.2f}", *shares, f"{made.memory:.2f}")
    return table


def paying(result: "Delivery") -> list[str]:
    """Return a sentence for each bitstream and the next larger one: the rates at which the smaller one is faster."""
    from toolchain.delivery.measurements import break_even

    sentences = []
    for smaller, larger in pairwise(result.bitstreams):
        rate = break_even(smaller, larger)
        sentences.append(
            f"{smaller.name} is faster than {larger.name} at every rate up to 10 Gbit/s."
            if rate is None
            else f"{smaller.name} is faster than {larger.name} below {rate / 1e6:.3g} Mbit/s."
        )
    return sentences
