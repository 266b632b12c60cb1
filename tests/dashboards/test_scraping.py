"""What Prometheus is told: where targets come from, how often, with which key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from artifacts.errors import ConfigError
from dashboards.build import CONTAINER
from dashboards.scraping import HERE, JOB, LOAD_TEST_JOB, Scraping, configuration

ASKED = Scraping(url="http://10.0.0.1:8000/", rules="/etc/prometheus")


def told(scraping: Scraping) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(configuration(scraping))
    return loaded


def test_targets_come_from_the_gateway() -> None:
    gateway, client = told(ASKED)["scrape_configs"]
    assert (gateway["job_name"], client["job_name"]) == (JOB, LOAD_TEST_JOB)
    assert gateway["http_sd_configs"] == [{"url": "http://10.0.0.1:8000/sd", "refresh_interval": "5s"}]
    assert client["static_configs"] == [{"targets": [f"127.0.0.1:{9646 + number}" for number in range(4)]}]


def test_a_guarded_gateway_is_asked_with_a_key_and_the_load_client_never() -> None:
    gateway, client = told(Scraping(url="https://host", rules="/r", key_file="/run/key"))["scrape_configs"]
    bearer = {"type": "Bearer", "credentials_file": "/run/key"}
    assert gateway["authorization"] == bearer
    assert gateway["http_sd_configs"][0]["authorization"] == bearer
    assert gateway["scheme"] == "https"
    assert "authorization" not in client
    assert "authorization" not in configuration(ASKED)


def test_scrapes_and_rules_have_one_rhythm() -> None:
    rhythm = told(Scraping(url="http://h", rules="/r", interval_s=1))["global"]
    assert set(rhythm.values()) == {"1s"}


def test_rules_are_where_prometheus_sees_them() -> None:
    assert told(ASKED)["rule_files"] == ["/etc/prometheus/recording.yaml", "/etc/prometheus/alerts.yaml"]
    committed = json.loads((HERE / "prometheus" / "prometheus.json").read_text(encoding="utf-8"))
    assert committed == told(CONTAINER)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host/metrics", ""])
def test_what_is_no_servers_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a server's URL"):
        configuration(Scraping(url=url, rules="/r"))


@pytest.mark.parametrize("address", ["9646", "host", "host:", "host:x"])
def test_what_is_no_load_tests_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a load test"):
        configuration(Scraping(url="http://h", rules="/r", load_test=address))
