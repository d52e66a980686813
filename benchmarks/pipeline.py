"""Speed and memory of the whole measurement against one bare forward pass, in one run.

    python benchmarks/pipeline.py                 # the table of the README (about 15 minutes on two cores)
    python benchmarks/pipeline.py --repeats 1     # a quick look

Everything is timed on Gemma 3 270M, country lists, four noise levels, in turns: a bare Hugging Face trunk
(no unembedding, the best of several batch sizes), our capture alone, our whole measurement (macro, micro,
noise at every block and position), and `run_with_cache` with a residual-only filter on the bridge. Ratios are
taken within a turn; the table shows their median and range. Peak anonymous memory is measured in processes
of its own, as the growth over the loaded model.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import tl_emergence as tle
from tl_emergence import models
from tl_emergence.capture.forward import with_prefix

SIGMAS = (0.25, 0.5, 1.0, 2.0)
BATCH_SIZES = (64, 128, 256, 512)
MODEL = "gemma-3-270m"


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bare_pass(trunk: Any, tokens: torch.Tensor, batch_size: int) -> None:
    with torch.no_grad():
        for batch in tokens.split(batch_size):
            trunk(batch, use_cache=False)


def cached_pass(model: Any, tokens: torch.Tensor, batch_size: int) -> None:
    names = {f"blocks.{i}.hook_resid_{side}" for i in range(model.cfg.n_layers) for side in ("pre", "post")}
    keep = {name for name in names if "pre" in name} | {f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"}
    with torch.no_grad():
        for batch in tokens.split(batch_size):
            model.run_with_cache(batch, return_type=None, names_filter=lambda name: name in keep)


def measure_speed(n: int, n_cached: int, repeats: int) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    model = models.load(MODEL)
    folder = models.cache_folder() / MODEL
    trunk = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval().model
    prompts = tle.prompts.demonstrations("country", model, n=n)
    few = tle.prompts.demonstrations("country", model, n=n_cached)
    tokens = with_prefix(prompts.tokens, model.tokenizer.bos_token_id)
    few_tokens = with_prefix(few.tokens, model.tokenizer.bos_token_id)
    bare_pass(trunk, tokens[:128], 64)
    tle.information_emergence(model, few, sigma=SIGMAS, positions=[1])  # warm up
    turns = []
    for _ in tqdm(range(repeats), desc="turns", file=sys.stderr):
        bare = min(seconds(lambda b=b: bare_pass(trunk, tokens, b)) for b in BATCH_SIZES)
        capture = seconds(lambda: tle.capture_states(model, prompts))
        whole = seconds(lambda: tle.information_emergence(model, prompts, sigma=SIGMAS))
        few_capture = seconds(lambda: tle.capture_states(model, few))
        cached = min(seconds(lambda b=b: cached_pass(model, few_tokens, b)) for b in (64, 128))
        turns.append(
            {"bare": bare, "capture": capture, "whole": whole, "few_capture": few_capture, "cached": cached}
        )
    return {"n": n, "n_cached": n_cached, "turns": turns}


def anonymous_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    raise RuntimeError("no RssAnon in /proc/self/status: memory is measured on Linux only")


def measure_memory(n: int) -> dict[str, float]:
    model = models.load(MODEL)
    prompts = tle.prompts.demonstrations("country", model, n=n)
    gc.collect()
    loaded, peak, done = anonymous_kib(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, anonymous_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    took = seconds(lambda: tle.information_emergence(model, prompts, sigma=SIGMAS))
    done.set()
    watcher.join()
    return {"n": n, "loaded_gib": loaded / 2**20, "growth_gib": (peak - loaded) / 2**20, "seconds": took}


def in_a_process_of_its_own(n: int, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--memory-of", str(n), "--threads", str(threads)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def ratios(turns: list[dict[str, float]], over: str, under: str) -> list[float]:
    return [turn[over] / turn[under] for turn in turns]


def machine() -> str:
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def report(speed: dict[str, Any], memory: list[dict[str, float]]) -> str:
    turns = speed["turns"]
    rows = [
        ("whole measurement / bare pass", ratios(turns, "whole", "bare"), "at most 1.75"),
        ("capture alone / bare pass", ratios(turns, "capture", "bare"), "at most 1.25"),
        ("run_with_cache / capture alone", ratios(turns, "cached", "few_capture"), "at least 2"),
    ]
    bare = statistics.median(turn["bare"] for turn in turns)
    lines = [
        f"{machine()}",
        f"N = {speed['n']:,} (run_with_cache: {speed['n_cached']:,}), {len(turns)} turns; "
        f"a bare pass took {bare:.1f} s (median)",
        "",
        "| ratio | median | range | wanted |",
        "|---|---|---|---|",
    ]
    for name, values, wanted in rows:
        low, high = min(values), max(values)
        lines.append(f"| {name} | {statistics.median(values):.2f} | {low:.2f} to {high:.2f} | {wanted} |")
    lines += ["", "| N | growth of anonymous memory | wanted | seconds |", "|---|---|---|---|"]
    for part in memory:
        growth = f"{part['growth_gib']:.2f} GiB over the loaded model's {part['loaded_gib']:.2f}"
        lines.append(f"| {part['n']:,} | {growth} | at most 2 GB (1.86 GiB) | {part['seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of the whole measurement, in one run.")
    parser.add_argument("--n", type=int, default=2048)
    parser.add_argument("--n-cached", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=int, nargs="*", default=[2048, 8192], help="sizes; none to skip")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of)))
        return
    memory = [in_a_process_of_its_own(n, options.threads) for n in options.memory]
    print(report(measure_speed(options.n, options.n_cached, options.repeats), memory))


if __name__ == "__main__":
    main()
