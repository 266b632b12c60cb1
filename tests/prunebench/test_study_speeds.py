"""Speeds of a cell: which memory both models get, what a load test gives, and drawn shapes from file to table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from artifacts.campaign import Campaign, LevelResult
from artifacts.energy import ArmEnergy, Energy
from artifacts.errors import LoadTestError
from artifacts.fleet import Fleet
from artifacts.hardware import Hardware
from artifacts.progress import silent
from artifacts.provenance import collect_provenance
from artifacts.run import ArmSummary, Comparison, Design, Estimate, Gate, RunManifest
from artifacts.study import Coordinates, PaperSpeed, ServingSpeed, StudyModel, load_cells
from artifacts.traffic import Level, Workload
from artifacts.variant import Footprint, Ratios
from prunebench.study import speeds
from prunebench.study.ceilings import held_bytes
from prunebench.study.cell import serving_stage
from prunebench.study.checkpoints import Checkpoint, Place
from prunebench.study.plan import CellPlan
from prunebench.study.served import Served, left_out, speeds_of
from prunebench.study.speeds import fleet_of, same_engines, serving_speeds
from tests.prunebench.conftest import Verb

GIB = 1 << 30
LEVELS = (Level(concurrency=1), Level(concurrency=300))
SPEED = ServingSpeed(
    mode="serving", levels=LEVELS, prompt_tokens=8, output_tokens=8, blocks=2, kv_cache_bytes=GIB, max_model_len=64
)
WORKLOAD = Workload(prompt_tokens=8, output_tokens=8)
RATIOS = Ratios(nominal=0.5, params_total=0.5, params_blocks=0.5, kv_bytes_per_token=0.5, flops_per_token=0.5)


def checkpoint(name: str, params: int, *flags: str, drawn: bool = False, folder: Path = Path()) -> Checkpoint:
    """Two bytes a parameter; of 1000 blocks have 800, of 400 200. A token takes 64 KiB of cache, or 32."""
    blocks = params - 200
    footprint = Footprint(
        params_total=params,
        params_blocks=blocks,
        weights_bytes=2 * params,
        kv_bytes_per_token=(64 if params == 1000 else 32) << 10,
        flops_per_token=2 * (blocks + 100),
    )
    return Checkpoint(folder=folder / name, footprint=footprint, ratios=RATIOS, drawn=drawn, engine_flags=flags)


@pytest.mark.parametrize(
    ("fairness", "variant", "cache_bytes"),
    [
        ("kv", checkpoint("v", 400), GIB),
        ("memory", checkpoint("v", 400), GIB + 2 * (1000 - 400)),
        ("memory", checkpoint("v", 1000, "--quantization", "fp8"), GIB + 800),
    ],
)
def test_memory_that_pruning_frees_goes_where_the_study_says(
    fairness: str, variant: Checkpoint, cache_bytes: int
) -> None:
    fleet = fleet_of([SPEED.model_copy(update={"fairness": fairness})], checkpoint("d", 1000), variant)
    dense, pruned = fleet.variants
    assert (dense.kv_cache_bytes, pruned.kv_cache_bytes) == (GIB, cache_bytes)
    # A request of 16 tokens has a block of 128, of which 1 GiB of cache holds 128, or 256 of half the bytes.
    held = [("--max-num-seqs", str(128 * (2 if params < 1000 else 1))) for params in (1000, variant.params)]
    flags = held if fairness == "memory" else [(), ()]
    assert [dense.engine_flags, pruned.engine_flags] == [flags[0], (*flags[1], *variant.engine_flags)]
    assert (fleet.max_num_seqs, fleet.max_model_len, fleet.starts_at_once) == (300, 64, 2)


def test_drawn_weights_are_for_engines_that_have_weights() -> None:
    drawn = checkpoint("d", 1000, drawn=True), checkpoint("v", 400, "--quantization", "fp8", drawn=True)
    flags = [entry.engine_flags for entry in fleet_of([SPEED], *drawn).variants]
    assert flags == [("--load-format", "dummy"), ("--load-format", "dummy", "--quantization", "fp8")]
    simulated = fleet_of([SPEED.model_copy(update={"engine": "sim"})], *drawn)
    assert [entry.engine_flags for entry in simulated.variants] == [(), ("--quantization", "fp8")]


SERVED_PAIR = (checkpoint("d", 1000), checkpoint("v", 400))
SERVED = Served(base=SERVED_PAIR[0], made=SERVED_PAIR[1])
PLAN = CellPlan(
    cell="c", at=Coordinates(model="m", method="ffn", ratio=0.5), model=StudyModel(name="m", source="somewhere")
)


def gate(passed: bool) -> Gate:
    return Gate(name="send_lag", observed=0.1, limit=1.0, unit="s", passed=passed, cause="load", remedy="wait")


def joules(model: str, per_token: float) -> ArmEnergy:
    return ArmEnergy(
        arm=0,
        model=model,
        kind="gpu",
        windows=8,
        windows_total=8,
        joules=100,
        output_tokens=100 / per_token,
        watts=300,
        idle_watts=None,
        joules_per_token=per_token,
        above_idle_joules_per_token=None,
    )


def write_campaign(folder: Path, valid: tuple[bool, ...]) -> Path:
    """As a load test would leave it: the variant twice as fast by token, with a ratio for the medians only."""
    arms = tuple(
        ArmSummary(
            model=model,
            fingerprint=None,
            requests=40,
            failures=0,
            failures_by_kind={},
            output_tokens=1000,
            measures={"tpot_p50_s": tpot, "tpot_p95_s": 2 * tpot, "output_tokens_per_s": 1 / tpot, "ttft_p50_s": None},
        )
        for model, tpot in (("dense", 0.2), ("variant", 0.1), ("dense", 0.25))
    )
    ratio = {
        "speedup_tpot_p50": Estimate(value=1.9, low=1.8, high=2.0, n=8),
        "energy_ratio_gpu": Estimate(value=1.5, low=1.4, high=1.6, n=8),
    }
    compared = Comparison(model="variant", against="dense", ratios=ratio, block_ratios={})
    floor = {"speedup_tpot_p50": Estimate(value=1.0, low=0.97, high=1.04, n=8)}
    control = Comparison(model="dense", against="dense", ratios=floor, block_ratios={})
    design = Design(blocks=8, spread=0.1, spread_source="x", confidence=0.95, power=0.8, family=1, minimum_detectable=1)
    levels = []
    for level, passed in zip(LEVELS, valid, strict=True):
        run = RunManifest(
            url="http://here",
            models=("dense", "variant", "dense"),
            against="dense",
            level=level,
            workload=WORKLOAD,
            duration_s=1,
            blocks=8,
            warmup_s=0,
            gates=(gate(passed),),
            arms=arms,
            comparisons=(control, compared),
            energy=Energy(meters="read", arms=(joules("dense", 0.3), joules("variant", 0.2), joules("dense", 9.0))),
            provenance=collect_provenance(),
        )
        name = f"concurrency-{level.concurrency}"
        run.save(folder / name / "run.json")
        failed = () if passed else (gate(False),)
        levels.append(
            LevelResult(folder=name, level=level, valid=passed, failed_gates=failed, comparisons=run.comparisons)
        )
    Campaign(
        url="http://here",
        models=("variant",),
        against="dense",
        workload=WORKLOAD,
        design=design,
        levels=tuple(levels),
        questions=(),
        controls=(),
        provenance=collect_provenance(),
    ).save(folder / "campaign.json")
    return folder


def test_a_load_test_gives_paired_ratios_and_both_values(tmp_path: Path) -> None:
    folder = write_campaign(tmp_path, (True, True))
    found = {(each.level, each.quantity): each for each in speeds_of(SPEED, folder, SERVED)}
    assert len(found) == 2 * (3 + 1)
    energy = found["concurrency 1", "joules_per_token_gpu"]
    assert (energy.speedup, energy.base_value, energy.value, energy.unit) == (1.5, 0.3, 0.2, "J/token")
    paired = found["concurrency 1", "tpot_p50_s"]
    assert (paired.speedup, paired.low, paired.high, paired.pairs) == (1.9, 1.8, 2.0, 8)
    assert (paired.base_value, paired.value, paired.unit) == (0.2, 0.1, "s"), "the control's dense arm is another one"
    tail, rate = found["concurrency 300", "tpot_p95_s"], found["concurrency 300", "output_tokens_per_s"]
    assert tail.speedup == pytest.approx(2.0) == rate.speedup and tail.low is None
    assert rate.unit == "tokens/s"
    assert (paired.control_low, paired.control_high) == (0.97, 1.04) and rate.control_low is None


def test_a_level_with_a_failed_gate_gives_no_number(tmp_path: Path) -> None:
    speed, folder = SPEED.model_copy(update={"name": "decode"}), write_campaign(tmp_path, (True, False))
    assert {each.level for each in speeds_of(speed, folder, SERVED)} == {"decode concurrency 1"}
    assert left_out(speed, folder) == ("decode concurrency 300: send_lag",)


def test_speeds_without_a_valid_level_fail_and_are_measured_again(tmp_path: Path) -> None:
    """With `failing` in its folder a campaign is there already: engines are not started for it."""
    again: list[str] = []
    place = Place(plan=PLAN, folder=tmp_path, scratch=tmp_path, device="cpu")
    write_campaign(tmp_path / "raw" / "serving", (True, False))
    rows, failed = serving_speeds([SPEED], place, SERVED, tmp_path / "raw", silent)
    assert rows and failed == ("concurrency 300: send_lag",)
    write_campaign(tmp_path / "raw" / "decode", (False, False))

    @contextmanager
    def pretended(fleet: Fleet, *_: object) -> Iterator[str]:
        again.append(fleet.variants[1].name)
        yield "http://here"

    def measured(speed: ServingSpeed, url: str, out: Path, _: object) -> None:
        assert not out.exists()
        write_campaign(out, (False, False))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speeds, "_server", pretended)
        patch.setattr(speeds, "_measure", measured)
        with pytest.raises(LoadTestError, match=r"No level is valid \(decode concurrency 1: send_lag; decode"):
            serving_speeds([SPEED.model_copy(update={"name": "decode"})], place, SERVED, tmp_path / "raw", silent)
    assert again == ["variant"]


def test_what_was_begun_before_is_no_price_for_others(tmp_path: Path) -> None:
    assert serving_stage(tmp_path / "raw") == "serving" == serving_stage(tmp_path)
    (tmp_path / "raw").mkdir()
    write_campaign(tmp_path / "raw" / "decode", (True, True))
    assert serving_stage(tmp_path / "raw") != "serving"


def test_speeds_that_want_the_same_engines_share_them() -> None:
    def named(name: str, **changes: object) -> ServingSpeed:
        return SPEED.model_copy(update={"name": name, **changes})

    asked = [named("decode"), named("memory", fairness="memory"), named("prefill", prompt_tokens=32), named("eager")]
    asked[3] = named("eager", engine_flags=("--enforce-eager",))
    asked += [named("far", max_model_len=128), named("roomy", kv_cache_bytes=2 * GIB), named("sim", engine="sim")]
    assert [[speed.name for speed in group] for group in same_engines(asked)] == [
        ["decode", "prefill"],
        *(["memory"], ["eager"], ["far"], ["roomy"], ["sim"]),
    ]
    long = named("long", levels=(Level(concurrency=400),))
    assert fleet_of([SPEED, long], *SERVED_PAIR).max_num_seqs == 400


METRICS = """# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",num_gpu_blocks="100",variant="dense"} 1.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="250",variant="variant"} 1.0
"""


def test_caches_and_roofline_stand_beside_what_was_measured(tmp_path: Path) -> None:
    """By hand: 1000 parameters of two bytes, of which an embedding of 100 is looked up; 8 + 4 tokens of context."""
    pair = [write_config_of(checkpoint(name, params, folder=tmp_path)) for name, params in (("d", 1000), ("v", 400))]
    hardware = Hardware(name="x", memory_bytes_per_s=1e6, flops_per_s=1e12, source="stated")
    folder = write_campaign(tmp_path / "c", (True, True))
    for level in LEVELS:
        (folder / f"concurrency-{level.concurrency}" / "metrics_after.txt").write_text(METRICS)
    served = Served(base=pair[0], made=pair[1], hardware=hardware)
    found = {(each.level, each.quantity): each for each in speeds_of(SPEED, folder, served)}
    held = found["concurrency 1", "kv_capacity_tokens"]
    assert (held.base_value, held.value, held.speedup, held.low) == (1600, 4000, 2.5, None)
    least = found["concurrency 1", "roofline_step_s"]
    assert least.base_value == pytest.approx((2 * 900 + 12 * (64 << 10)) / 1e6)
    assert least.value == pytest.approx((2 * 300 + 12 * (32 << 10)) / 1e6)
    assert least.speedup == pytest.approx((least.base_value or 0) / (least.value or 1))
    reached = found["concurrency 1", "reached_of_roofline"]
    assert reached.value == pytest.approx((least.value or 0) / 0.1)
    many = found["concurrency 300", "roofline_step_s"]
    assert many.base_value == pytest.approx((2 * 900 + 300 * 12 * (64 << 10)) / 1e6)


def write_config_of(made: Checkpoint) -> Checkpoint:
    made.folder.mkdir()
    shape = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 10, "hidden_size": 10}
    (made.folder / "config.json").write_text(json.dumps(shape | {"tie_word_embeddings": False}))
    return made


def test_an_engine_of_eight_bits_holds_one_byte_a_weight_of_its_blocks() -> None:
    assert held_bytes(checkpoint("v", 1000, "--quantization", "fp8")) == 800 + 2 * 200
    assert held_bytes(checkpoint("v", 1000)) == 2000


def test_a_paper_speed_names_its_shape() -> None:
    assert PaperSpeed(mode="paper", batch=2, tokens=512).label == "forward 2x512"


SHAPES = """
title = "a drawn shape, served by the simulator"
[[models]]
name = "small"
[models.config]
architectures = ["Qwen2ForCausalLM"]
hidden_size = 64
intermediate_size = 256
num_hidden_layers = 4
num_attention_heads = 4
num_key_value_heads = 2
vocab_size = 600
max_position_embeddings = 512
tie_word_embeddings = true
[[methods]]
name = "ffn"
method = "random"
ratios = [0.5]
[[methods]]
name = "fp8"
ratios = [0.0]
engine_flags = ["--itl-ms", "4"]
[[speeds]]
mode = "paper"
tokens = 64
pairs = 3
methods = ["ffn"]
[[speeds]]
mode = "serving"
name = "decode"
round = 1
methods = ["fp8"]
engine = "sim"
engine_flags = ["--ttft-ms", "5", "--itl-ms", "12"]
levels = [{ concurrency = 1 }]
prompt_tokens = 16
output_tokens = 16
blocks = 3
window_s = 1
warmup_s = 0.2
max_model_len = 64
kv_cache_bytes = 16777216
"""


def test_drawn_shapes_from_the_file_to_the_table(verb: Verb, tmp_path: Path) -> None:
    """The command that a GPU is given, on a shape that any machine can run; what must not wait is measured first."""
    (tmp_path / "shapes.toml").write_text(SHAPES)
    planned = verb("study", "plan", tmp_path / "shapes.toml", "--each")
    assert planned.code == 0, planned.stderr
    kinds = [cell.rpartition("-")[0] for cell in planned.result["each_s"]]
    assert kinds == ["small.dense.r0.s0", "small.fp8.r0.s0.round1", "small.ffn.r0.5.s0", "small.fp8.r0.s0"]
    ran = verb("study", "run", tmp_path / "shapes.toml")
    assert ran.code == 0 and ran.result["left"] == 0, ran.stderr
    records = {record.cell.rpartition("-")[0]: record for record in load_cells(tmp_path / "shapes.study")}
    (forward,) = records["small.ffn.r0.5.s0"].speeds
    assert (forward.mode, forward.level, forward.pairs) == ("paper", "forward 1x64", 3)
    ffn = records["small.ffn.r0.5.s0"]
    assert ffn.base_params is not None and ffn.base_params - (ffn.params or 0) == 4 * 3 * 64 * 128
    served = records["small.fp8.r0.s0.round1"]
    campaign = json.loads((tmp_path / "shapes.study" / "raw" / served.cell / "decode" / "campaign.json").read_text())
    if all(level["valid"] for level in campaign["levels"]):
        tpot = next(speed for speed in served.speeds if speed.quantity == "tpot_p50_s")
        assert tpot.level == "decode concurrency 1" and tpot.pairs == 3
        assert tpot.speedup == pytest.approx(12 / 4, rel=0.3)
    else:  # the gates of a machine that does other work are the load test's to judge
        assert "is valid" in str(served.error)
