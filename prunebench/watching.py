"""The verbs of the dashboards: build the files, check them, watch a running fleet without containers."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

app = typer.Typer(name="dashboards", help="Grafana dashboards, Prometheus' rules and alerts.", no_args_is_help=True)


@app.command()
def build() -> None:
    """Write the dashboards' JSON and Prometheus' configuration into the source tree, from the code."""
    from dashboards.build import build as write
    from prunebench.console import print_result

    print_result({"written": [str(path) for path in write()]})


@app.command()
def check() -> None:
    """Compare the written files with the code, and have promtool check configuration, rules and their tests."""
    from dashboards.checking import check_all
    from prunebench.console import note, print_result

    outcome = check_all()
    for sentence in outcome.faults:
        note(sentence)
    print_result({"ok": not outcome.faults, "checked": list(outcome.checked), "skipped": list(outcome.skipped)})
    if outcome.faults:
        raise typer.Exit(1)


@app.command()
def serve(
    url: Annotated[str, typer.Option(help="The running gateway.")] = "http://127.0.0.1:8000",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Prometheus' own port.")] = 9090,
) -> None:
    """Start a Prometheus of your own against a running fleet. Ctrl-C ends it and leaves nothing behind.

    A guarded gateway's key is taken from the environment's PRUNEBENCH_API_KEY.

    Example: prunebench dashboards serve --url http://127.0.0.1:8000
    """
    from dashboards.local_prometheus import Watch, prometheus
    from loadtest.player import terminate_like_interrupt
    from prunebench.console import note, print_result

    watch = Watch(url=url, port=port, key=os.environ.get("PRUNEBENCH_API_KEY"))
    began_s = time.monotonic()
    try:
        with terminate_like_interrupt(), prometheus(watch) as own_url:
            note(f"Prometheus at {own_url} watches {url}; alerts at {own_url}/alerts. Ctrl-C ends it.")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print_result({"watched": url, "seconds": round(time.monotonic() - began_s, 1)})
