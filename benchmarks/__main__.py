"""`python -m benchmarks run|compare|page`: runs the benchmarks, compares with the stored results, makes docs/performance.md."""

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks import comparing, page
from benchmarks.catalogue import BENCHMARKS, SETTINGS, find
from benchmarks.common import REPOSITORY, run
from benchmarks.results import STORED
from benchmarks.running import run_all

ANEW = REPOSITORY / "results" / "benchmarks"  # git ignores it


def parser() -> argparse.ArgumentParser:
    """Return the parser of the three commands."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Figures of speed that regenerate.")
    commands = parser.add_subparsers(dest="command", required=True)
    names = ", ".join(each.name for each in BENCHMARKS)

    running = commands.add_parser("run", help="run benchmarks, each in a process of its own, and store what they found")
    comparison = commands.add_parser(
        "compare", help="ratios of new results to the stored ones; runs the benchmarks where no --new is given"
    )
    for each in (running, comparison):
        each.add_argument("--setting", choices=SETTINGS, default="quick")
        each.add_argument("--only", nargs="+", metavar="NAME", help=f"some of {names}")
        each.add_argument("--resume", action="store_true", help="keep results of this commit, command and machine")
    running.add_argument("--results", type=Path, default=STORED, metavar="DIR")
    comparison.add_argument("--against", type=Path, default=STORED, metavar="DIR", help="the stored results")
    comparison.add_argument("--new", type=Path, metavar="DIR", help="results that are there already; nothing is run")
    comparison.add_argument("--json", type=Path, metavar="FILE", help="write the comparison there too")
    paging = commands.add_parser("page", help="make docs/performance.md and its plots from the stored results")
    paging.add_argument("--results", type=Path, default=STORED, metavar="DIR")
    paging.add_argument("--output", type=Path, default=page.PAGE, metavar="FILE")
    return parser


def main() -> None:
    """Read the command line and do it."""
    options, console = parser().parse_args(), Console()
    if options.command == "run":
        run_all(find(options.only), options.setting, options.results, resume=options.resume, console=console)
    elif options.command == "page":
        page.write(options.results, options.output)
        console.print(f"{options.output} is written.")
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
