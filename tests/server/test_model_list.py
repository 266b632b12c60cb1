"""Does `/v1/models` name everything that can be asked for, and say what each name stands for and how it is?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from serving_process import Serving
from test_control_plane import ask

from artifacts.fleet import Fleet
from artifacts.variant import VariantManifest
from server.checkpoint import Checkpoint
from server.lifecycle import Lifecycle, State
from server.model_list import model_entry, model_list, named_entry
from server.registry import Registry
from tests.manifests import small_manifest

FLEET: dict[str, Any] = {
    "variants": [
        {"name": "dense", "engine": "sim"},
        {"name": "small", "engine": "sim"},
        {"name": "far", "url": ["http://a:1/v1", "http://b:2"], "served_name": "theirs"},
    ],
    "aliases": {"canary": {"dense": 9, "small": 1}, "latest": "small"},
}


def registry_in(*states: State) -> Registry:
    registry = Registry(Fleet.parse(FLEET, "the test's fleet"), "/run")
    for variant, state in zip(registry, states, strict=True):
        variant.lifecycle = Lifecycle(state=state)
    return registry


def test_variants_come_first_and_every_name_that_can_be_asked_for_is_listed() -> None:
    registry = registry_in("ready", "ready", "ready")
    listed = model_list(registry, 7)
    assert tuple(entry["id"] for entry in listed) == registry.names == ("dense", "small", "far", "canary", "latest")
    assert {(entry["object"], entry["created"], entry["owned_by"]) for entry in listed} == {("model", 7, "prunebench")}
    assert all(entry == named_entry(registry, entry["id"], 7) for entry in listed)
    assert named_entry(registry, "nobody", 7) is None


ALIASES: list[tuple[str, tuple[State, State, State], str, list[tuple[str, float, str]]]] = [
    ("canary", ("ready", "ready", "ready"), "ready", [("dense", 0.9, "ready"), ("small", 0.1, "ready")]),
    ("canary", ("ready", "backoff", "ready"), "backoff", [("dense", 0.9, "ready"), ("small", 0.1, "backoff")]),
    ("canary", ("starting", "queued", "ready"), "starting", [("dense", 0.9, "starting"), ("small", 0.1, "queued")]),
    ("latest", ("backoff", "ready", "backoff"), "ready", [("small", 1.0, "ready")]),
]


@pytest.mark.parametrize(("name", "states", "state", "targets"), ALIASES)
def test_an_alias_says_what_it_stands_for(
    name: str, states: tuple[State, State, State], state: str, targets: list[tuple[str, float, str]]
) -> None:
    entry = named_entry(registry_in(*states), name, 7)
    assert entry is not None
    assert set(entry["prunebench"]) == {"state", "targets"}
    assert entry["prunebench"]["state"] == state
    assert [tuple(target.values()) for target in entry["prunebench"]["targets"]] == targets


def test_only_what_has_urls_has_replicas_and_they_say_how_they_are() -> None:
    dense, _, far = registry_in("ready", "ready", "ready")
    assert "replicas" not in model_entry(dense, 7)["prunebench"]
    far.replicas[1].health = far.replicas[1].health.failed("no")
    far.replicas[0].in_flight = 3
    assert model_entry(far, 7)["prunebench"]["replicas"] == [
        {"url": "http://a:1", "up": True, "in_flight": 3, "failures": 0, "reason": None},
        {"url": "http://b:2", "up": True, "in_flight": 0, "failures": 1, "reason": "no"},
    ]


def test_a_pruned_variant_tells_shapes_ratios_quality_and_hash() -> None:
    """The design's list; a manifest has them all."""
    dense, small, _ = registry_in("ready", "ready", "ready")
    made: VariantManifest = small_manifest()
    small.checkpoint = Checkpoint(manifest=made, fingerprint=made.fingerprint)
    about = model_entry(small, 7)["prunebench"]
    assert about["state"] == "ready"
    assert about["fingerprint"] == made.fingerprint
    assert about["manifest"]["ratios"] == made.ratios.model_dump(mode="json")
    assert about["manifest"]["layers"] == [layer.model_dump(mode="json") for layer in made.layers]
    assert about["manifest"]["quality"] == [record.model_dump(mode="json") for record in made.quality]
    json.dumps(about)
    assert "manifest" not in model_entry(dense, 7)["prunebench"]


@pytest.mark.parametrize("name", ["canary", "latest"])
def test_an_alias_can_be_asked_for_by_its_name(name: str) -> None:
    status, _, body = ask(registry_in("ready", "ready", "ready"), f"/v1/models/{name}")
    assert (status, json.loads(body)["id"]) == (200, name)


def test_the_list_over_http_is_what_clients_expect(pair: Serving) -> None:
    listed = pair.client.get("/v1/models").json()
    assert [entry["id"] for entry in listed["data"]] == ["dense", "pruned"]
    assert [entry["prunebench"]["state"] for entry in listed["data"]] == ["ready", "ready"]
