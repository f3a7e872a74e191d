"""Commands for delivery to the UE: deliver, receive."""

from pathlib import Path
from typing import Annotated

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of
from toolchain.cli.options import OUTPUT, RUNNING, BaseOption, CodeOption, DecoderOption, JsonOption, ReplaceOption, console, write_figures
from toolchain.cli.outputs import output_folder, record_inputs


def deliver(
    bitstreams: Annotated[list[Path], typer.Argument(metavar="BITSTREAM…", help="Bitstreams (.asrb) of the same model.")],
    rates: Annotated[str, typer.Option(help="Transfer rates in Mbit/s, separated by commas.", rich_help_panel=RUNNING)] = "1,10,100",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Output folder (default: `results/delivery`). An interrupted run resumes there.", rich_help_panel=OUTPUT
        ),
    ] = None,
    replace: ReplaceOption = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Only serve the bitstreams, until Ctrl-C, for `asrdeploy receive`.", rich_help_panel=RUNNING)
    ] = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on with --serve. Use 0.0.0.0 to serve other machines.", rich_help_panel=RUNNING)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on with --serve.", min=1, max=65535, rich_help_panel=RUNNING)] = 8750,
    model: CodeOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure the time to the first transcript over HTTP, or serve bitstreams. Example: asrdeploy deliver tiny.asrb --rates 10,100"""
    from toolchain.accuracy.progress import share_progress
    from toolchain.delivery import server
    from toolchain.reports import tables
    from toolchain.reports.plots import plot_delivery

    if serve and json_file is not None:
        raise AsrDeployError("--serve measures nothing, so it has no result. Leave --json out.")
    if serve:
        console.print(f"Serving {', '.join(f'http://{host}:{port}/{server.address_of(path)}' for path in bitstreams)}")
        return server.serve(bitstreams, host, port)
    chosen = [1e6 * each for each in _rates(rates)]
    server.check_deliverable(bitstreams, model)
    sources = [sha256_of(each) for each in bitstreams]
    folder = output_folder(output, Path("results/delivery"), sources, replace=replace)
    server.check_folder(folder)
    record_inputs(folder, sources)
    with share_progress() as progress:
        result = server.deliver(bitstreams, chosen, folder, progress, model=model)
    for ending in ("png", "svg"):
        plot_delivery(result, folder / f"delivery.{ending}")
    console.print(tables.delivery(result))
    for sentence in tables.paying(result):
        console.print(sentence)
    console.print(f"delivery.json, delivery.png and delivery.svg are in {folder}.")
    write_figures(json_file, result)


def receive(
    url: Annotated[str, typer.Argument(help="URL of a bitstream, as `asrdeploy deliver --serve` prints it.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Bitstream to write (.asrb). An interrupted reception resumes.", rich_help_panel=OUTPUT)
    ],
    rate: Annotated[float | None, typer.Option(help="Rate limit in Mbit/s (default: none).", rich_help_panel=RUNNING)] = None,
    base: BaseOption = None,
    decoder: DecoderOption = None,
    model: CodeOption = None,
    json_file: JsonOption = None,
) -> None:
    """Receive a bitstream, decode it while it arrives, and transcribe bundled speech.

    Example: asrdeploy receive http://127.0.0.1:8750/tiny.asrb -o received.asrb
    """
    from toolchain.delivery import reception
    from toolchain.reports import tables

    if rate is not None and not 0 < rate < 1e6:
        raise AsrDeployError(f"--rate {rate:g} is out of range. Use a rate in Mbit/s above 0.")
    limit = None if rate is None else 1e6 * rate
    with console.status("receiving") as status:
        made = reception.receive(url, output, bits_per_second=limit, base=base, decoder=decoder, model=model, progress=status.update)
    console.print(tables.reception(made))
    console.print(f"The bitstream is in {output}.")
    write_figures(json_file, made)


def _rates(text: str) -> list[float]:
    try:
        rates = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise AsrDeployError(f"--rates {text}: write numbers separated by commas, for example 1,10,100.") from None
    if not all(0 < rate < 1e6 for rate in rates):
        raise AsrDeployError(f"--rates {text}: rates are in Mbit/s and must be above 0.")
    return rates


COMMANDS = (deliver, receive)
