"""Who hands the load test's page to Prometheus? A greenlet beside the streams: a scrape costs it ready bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from gevent.pywsgi import WSGIServer

from artifacts.errors import ConfigError
from loadtest.client_page import ClientPage
from loadtest.plan import Plan
from loadtest.protocol import METRICS_ADDRESS_VARIABLE

KIND = "text/plain; version=0.0.4; charset=utf-8"


@contextmanager
def shown(plan: Plan, number: int = 0) -> Iterator[ClientPage]:
    """The page of the run's process `number`, served that many ports above the environment's address, if it is set.

    Raises ConfigError if that is none, or taken.
    """
    page = ClientPage(plan)
    address = os.environ.get(METRICS_ADDRESS_VARIABLE)
    server = None if not address else _server(page, address, number)
    try:
        yield page
    finally:
        if server is not None:
            server.stop(timeout=0)


def _server(page: ClientPage, address: str, number: int) -> WSGIServer:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{address!r} is no address for the metrics page. Give HOST:PORT, as in 127.0.0.1:9646.")

    def answer(environment: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
        start("200 OK", [("content-type", KIND)])
        return [page.page]

    server = WSGIServer((host, int(port) + number), answer, log=None, error_log=None)
    try:
        server.start()
    except OSError as error:
        raise ConfigError(f"The metrics page cannot be served at {address} ({error.strerror}).") from error
    return server
