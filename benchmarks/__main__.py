"""Command line: `python -m benchmarks run|compare|page` runs benchmarks, compares results, and writes docs/performance.md."""

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks import comparing, page
from benchmarks.catalogue import BENCHMARKS, SETTINGS, find
from benchmarks.common import REPOSITORY, run
from benchmarks.results import STORED
from benchmarks.running import run_all

ANEW = REPOSITORY / "results" / "benchmarks"  # ignored by git


def parser() -> argparse.ArgumentParser:
    """Return the parser of the three commands."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks and report their results.")
    commands = parser.add_subparsers(dest="command", required=True)
    names = ", ".join(each.name for each in BENCHMARKS)

    running = commands.add_parser("run", help="run benchmarks in separate processes and store the results")
    comparison = commands.add_parser("compare", help="compare new results with stored ones; without --new, run the benchmarks first")
    for each in (running, comparison):
        each.add_argument("--setting", choices=SETTINGS, default="quick")
        each.add_argument("--only", nargs="+", metavar="NAME", help=f"benchmarks to include: {names} (default: all)")
        each.add_argument("--resume", action="store_true", help="keep existing results of this commit, command and machine")
    running.add_argument("--results", type=Path, default=STORED, metavar="DIR")
    comparison.add_argument("--against", type=Path, default=STORED, metavar="DIR", help="folder of the stored results")
    comparison.add_argument("--new", type=Path, metavar="DIR", help="folder of existing new results; nothing is run")
    comparison.add_argument("--json", type=Path, metavar="FILE", help="also write the comparison to this file")
    paging = commands.add_parser("page", help="write docs/performance.md and its plots from the stored results")
    paging.add_argument("--results", type=Path, default=STORED, metavar="DIR")
    paging.add_argument("--output", type=Path, default=page.PAGE, metavar="FILE")
    return parser


def main() -> None:
    """Run the command that the command line names."""
    options, console = parser().parse_args(), Console()
    if options.command == "run":
        run_all(find(options.only), options.setting, options.results, resume=options.resume, console=console)
    elif options.command == "page":
        page.write(options.results, options.output)
        console.print(f"Wrote {options.output}.")
    else:
        new, chosen = options.new or ANEW, find(options.only)
        if options.new is None:
            run_all(chosen, options.setting, new, resume=options.resume, console=console)
        found = comparing.compare(options.against, new, options.setting, [each.name for each in chosen])
        comparing.show(found, console)
        if options.json is not None:
            comparing.write(found, options.json)


if __name__ == "__main__":
    run(main)
