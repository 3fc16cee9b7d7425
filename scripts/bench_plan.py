#!/usr/bin/env python3
"""Compares what `vidgen plan` says with what runs take: seconds and peak memory, over several sizes of the built-in model.

    scripts/bench_plan.py [target/release/vidgen] [--rounds 3] [--threads N]

Measures this machine anew, then runs and plans in turn; medians of the rounds. On a machine that others use, runs wait and
plans do not know: the column "load" says how many processes wanted to run, and `--threads 1` on two cores waits less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

CASES = {
    "native clip": ["generate", "a red ball rolls to the right in a green meadow on a sunny day"],
    "small": ["generate", "a red ball rolls to the right", "--size", "96x64", "--frames", "25"],
    "large": ["generate", "a red ball rolls to the right", "--size", "288x192", "--frames", "25", "--steps", "6"],
    "long steps": ["generate", "a red ball rolls to the right", "--frames", "17", "--steps", "40"],
    "three prompts": ["multi-prompt", "prompts/seasons.txt"],
    "no guidance": ["generate", "a red ball rolls to the right", "--guidance-scale", "1"],
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("vidgen", nargs="?", default="target/release/vidgen")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", default=str(os.cpu_count()))
    p.add_argument("--limit", type=float, default=0.2, help="largest error that is no failure")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HOME": home, "XDG_CACHE_HOME": home + "/cache"}

        def run(words):
            words = [a.vidgen, *words, "--json", "--quiet", "--seed", "1", "--threads", a.threads, "--text-cache", "off"]
            return json.loads(subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout)

        rounds = {name: [] for name in CASES}
        for _ in range(a.rounds):
            run(["plan", "x", "--recalibrate"])
            for name, words in CASES.items():
                plan = run([*words, "--dry-run"])
                facts = run([*words, "-y", "-o", home + "/out.mp4"])["manifest"]["run"]
                rounds[name].append((plan, facts))
    print(f"{'':14} {'plan s':>7} {'real s':>7} {'error':>6}   {'plan MB':>8} {'real MB':>8} {'error':>6}   denoise, decode: plan/real")
    worst = 0.0
    for name, pairs in rounds.items():
        median = lambda f: statistics.median(f(plan, facts) for plan, facts in pairs)
        planned, real = median(lambda p, _: p["seconds"]["total"]), median(lambda _, f: f["seconds"]["total"])
        memory, peak = median(lambda p, _: p["memory"]["peak"]) / 1e6, median(lambda _, f: f["peak_memory"]) / 1e6
        stage = lambda key: f"{median(lambda p, _: p['seconds'][key]):.2f}/{median(lambda _, f: f['seconds'][key]):.2f}"
        worst = max(worst, abs(planned / real - 1), abs(memory / peak - 1))
        stages = ", ".join(stage(key) for key in ("denoise", "decode", "load", "encode", "mux"))
        print(f"{name:14} {planned:7.2f} {real:7.2f} {planned / real - 1:+6.0%}   {memory:8.0f} {peak:8.0f} "
              f"{memory / peak - 1:+6.0%}   {stages}")
    print(f"worst {worst:.0%}, load {os.getloadavg()[0]:.1f}")
    sys.exit(worst > a.limit)


if __name__ == "__main__":
    main()
