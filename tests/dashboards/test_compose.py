"""One command on a GPU host: what the composition names exists, and its parts find each other."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.build import BOARDS, CONTAINER
from dashboards.scraping import HERE

ROOT = Path(__file__).parents[2]


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


COMPOSED = read(ROOT / "compose.yaml")["services"]
PROVISIONING = HERE / "grafana" / "provisioning"


def mounts(service: str) -> dict[str, Path]:
    """Folders of ours by where the container sees them."""
    pairs = [volume.split(":") for volume in COMPOSED[service]["volumes"] if volume.startswith("./")]
    return {inside: ROOT / outside for outside, inside, *_ in pairs}


def test_prometheus_finds_its_configuration_and_rules() -> None:
    (flag,) = (word for word in COMPOSED["prometheus"]["command"] if word.startswith("--config.file="))
    folder, name = flag.removeprefix("--config.file=").rsplit("/", 1)
    configuration = json.loads((mounts("prometheus")[folder] / name).read_text(encoding="utf-8"))
    for rule_file in configuration["rule_files"]:
        assert (mounts("prometheus")[str(Path(rule_file).parent)] / Path(rule_file).name).is_file()


def test_prometheus_asks_the_server_by_its_name_and_port() -> None:
    assert CONTAINER.url == "http://server:8000"
    assert COMPOSED["server"]["ports"] == ["127.0.0.1:8000:8000"]
    assert CONTAINER.load_test.startswith("host.docker.internal:")
    assert COMPOSED["prometheus"]["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_grafana_is_pointed_at_prometheus_and_at_every_board() -> None:
    (source,) = read(PROVISIONING / "datasources" / "prometheus.yaml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == f"{CONTAINER.interval_s}s"
    (provider,) = read(PROVISIONING / "dashboards" / "prunebench.yaml")["providers"]
    folder = mounts("grafana")[provider["options"]["path"]]
    assert {path.stem for path in folder.glob("*.json")} == {board.name for board in BOARDS}
    home = Path(COMPOSED["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (folder / home.name).is_file()


def test_grafana_is_the_version_that_the_schema_is_of() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (pinned,) = extra["dashboards"]
    assert COMPOSED["grafana"]["image"].partition(":")[2] == pinned.rpartition("!")[2]
    assert f"\n{pinned}\n" in (ROOT / "requirements" / "cpu.txt").read_text(encoding="utf-8")


def test_nothing_is_open_to_the_network() -> None:
    ports = [port for service in COMPOSED.values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_accepts_it() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker compose is not installed")
    done = subprocess.run(["docker", "compose", "config", "-q"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
