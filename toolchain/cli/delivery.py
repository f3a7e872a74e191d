"""Commands of the transmission to the UE; see ``cli`` for the rules."""

from pathlib import Path
from typing import Annotated

import typer

from device_runner.errors import AsrDeployError
from toolchain.cli.options import BaseOption, CodeOption, DecoderOption, JsonOption, console, write_figures


def deliver(
    bitstreams: Annotated[list[Path], typer.Argument(metavar="BITSTREAM…", help="Bitstreams (.asrb) of one model.")],
    rates: Annotated[str, typer.Option(help="Rates of the content in Mbit/s, with commas between.")] = "1,10,100",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the results; a stopped run goes on there.")] = Path(
        "results/delivery"
    ),
    serve: Annotated[
        bool, typer.Option("--serve", help="Only offer the bitstreams, until Ctrl-C; `asrdeploy receive` takes them.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --serve: the address to listen on; 0.0.0.0 for others too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --serve.", min=1, max=65535)] = 8750,
    model: CodeOption = None,
    json_file: JsonOption = None,
) -> None:
    """Serve bitstreams, and measure the time to the first transcript. Example: asrdeploy deliver tiny.asrb --rates 10,100"""
    from toolchain.accuracy.progress import share_progress
    from toolchain.delivery import server
    from toolchain.reports import tables
    from toolchain.reports.plots import plot_delivery

    if serve and json_file is not None:
        raise AsrDeployError("--serve measures nothing; leave --json out.")
    if serve:
        console.print(f"Offered: {', '.join(f'http://{host}:{port}/{path.name}' for path in bitstreams)}", soft_wrap=True, highlight=False)
        return server.serve(bitstreams, host, port)
    chosen = [1e6 * each for each in _rates(rates)]
    with share_progress() as progress:
        result = server.deliver(bitstreams, chosen, output, progress, model=model)
    for ending in ("png", "svg"):
        plot_delivery(result, output / f"delivery.{ending}")
    console.print(tables.delivery(result))
    for sentence in tables.paying(result):
        console.print(sentence, highlight=False)
    console.print(f"delivery.json, delivery.png and delivery.svg are in {output}.")
    write_figures(json_file, result)


def receive(
    url: Annotated[str, typer.Argument(help="Address of a bitstream, as `deliver --serve` prints it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bitstream (.asrb); a cut reception goes on beside it.")],
    rate: Annotated[float | None, typer.Option(help="Limit of the rate in Mbit/s; default: none.")] = None,
    base: BaseOption = None,
    decoder: DecoderOption = None,
    model: CodeOption = None,
    json_file: JsonOption = None,
) -> None:
    """Receive a bitstream, decoding while it arrives. Example: asrdeploy receive http://127.0.0.1:8750/tiny.asrb -o received.asrb"""
    from toolchain.delivery import reception
    from toolchain.reports import tables

    if rate is not None and not 0 < rate < 1e6:
        raise AsrDeployError("--rate takes Mbit/s above 0.")
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
        raise AsrDeployError(f"--rates takes numbers with commas between, such as 1,10,100; not “{text}”.") from None
    if not all(0 < rate < 1e6 for rate in rates):
        raise AsrDeployError("--rates takes Mbit/s above 0.")
    return rates


COMMANDS = (deliver, receive)
