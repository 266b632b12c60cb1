"""How does Prometheus find the fleet? It asks the gateway, which lists itself and every variant.

One configuration for the container and for `dashboards serve`, which differ in addresses only. It is written as JSON,
which every reader of YAML reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from artifacts.errors import ConfigError

HERE = Path(__file__).parent
JOB = "prunebench"
LOAD_TEST_JOB = "prunebench-loadtest"
RULE_FILES = ("recording.yaml", "alerts.yaml")
LOAD_TEST_ADDRESS = "127.0.0.1:9646"
LOAD_TEST_PROCESSES = 4
"""How many processes of one load test are looked for, at consecutive ports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraping:
    """`url` is the gateway's; `rules` the folder of the rule files, as Prometheus will see it.

    A worker's page costs the gateway some milliseconds, in pieces, so 5 s is often enough. `key_file` holds an API key.
    """

    url: str
    rules: str
    load_test: str = LOAD_TEST_ADDRESS
    interval_s: int = 5
    key_file: str | None = None


def configuration(scraping: Scraping) -> str:
    """Raises ConfigError for a URL or an address that is none."""
    url = _http_url(scraping.url)
    # Prometheus 2.42 forgets its own default type where it asks for targets.
    bearer = {"type": "Bearer", "credentials_file": scraping.key_file}
    key: dict[str, Any] = {} if scraping.key_file is None else {"authorization": bearer}
    discovery = {"url": f"{url}/sd", "refresh_interval": f"{scraping.interval_s}s", **key}
    jobs: list[dict[str, Any]] = [
        {"job_name": JOB, "scheme": urlsplit(url).scheme, "http_sd_configs": [discovery], **key},
        {"job_name": LOAD_TEST_JOB, "static_configs": [{"targets": _consecutive(scraping.load_test)}]},
    ]
    every = f"{scraping.interval_s}s"
    whole = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(Path(scraping.rules) / name) for name in RULE_FILES],
        "scrape_configs": jobs,
    }
    return json.dumps(whole, indent=1) + "\n"


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise ConfigError(f"{url!r} is not a server's URL. Give it as http://HOST:PORT, without a path.")
    return url.rstrip("/")


def _consecutive(address: str) -> list[str]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{address!r} is no address of a load test. Give HOST:PORT, as in {LOAD_TEST_ADDRESS}.")
    return [f"{host}:{int(port) + number}" for number in range(LOAD_TEST_PROCESSES)]
