"""Tables of devices, parity results and test jobs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from device_runner.device_choice import Row

if TYPE_CHECKING:
    from toolchain.accuracy.parity import DeviceParity
    from toolchain.scenario.job_limits import Outcome  # imports PyTorch, which the list of devices does not need


def devices(rows: Iterable[Row]) -> Table:
    """Create the table of devices."""
    table = Table(title="Devices", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("device", "kind", "state", "model", "ABI", "system", "app"):
        table.add_column(column, overflow="fold", no_wrap=column in ("device", "kind"))
    for each in rows:
        table.add_row(each.name, each.kind or "—", each.state, each.model, each.abi, each.system, each.app)
    return table


def parity(found: "Iterable[DeviceParity]") -> Table:
    """Create the table of devices compared with the first one. It has no times, which mean nothing on emulated devices."""
    title = "Parity with the first device: logits, labels, transcripts and WER on a fixed subset"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for column in ("device", "kind", "relative", "largest", "same labels", "same text", "WER"):
        table.add_column(column, justify="left" if column in ("device", "kind") else "right")
    for each in found:
        distances = (f"{each.relative:.2e}", f"{each.largest:.2e}", f"{each.equal_arg_max:.2%}")
        table.add_row(each.device, each.kind, *distances, f"{each.transcripts_equal} of {each.utterances}", f"{each.wer:.2%}")
    return table


def outcomes(found: "Iterable[Outcome]", device: str) -> Table:
    """Create the table of test jobs with a row for each limit."""
    table = Table(title=f"Test jobs on {device}", title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for column in ("job", "limit", "measured", "maximum", "outcome"):
        table.add_column(column, justify="right" if column in ("measured", "maximum") else "left")
    for each in found:
        if each.problem is not None:
            table.add_row(each.job, "", "", "", "could not run")
        for check in each.checks:
            figure = "—" if check.found is None else f"{check.found:.4g}"
            table.add_row(each.job, check.limit, figure, f"{check.most:g}", check.ignored or ("EXCEEDED" if check.broken else "met"))
    return table
