"""``make report``: the pages, from results that are there."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.judged.results import REPORT, ResultsError, read
from benchmarks.report.pages import write_into, write_pages


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=REPORT)
@click.option("--into", type=click.Path(path_type=Path, exists=True), help="Replace the figures of this document, too.")
def main(file: Path, into: Path | None) -> None:
    """Write the HTML page and the Markdown of FILE beside it."""
    try:
        results = read(file)
        if into is not None:
            write_into(results, into)
    except ResultsError as error:
        raise click.ClickException(str(error)) from error
    for path in write_pages(results, file.parent):
        click.echo(f"written to {path}")


if __name__ == "__main__":
    main()
