#!/usr/bin/env python3
"""Ours beside the peers on the same work, in turn: called by script/bench, which see for the options.

For each case and precision a gate, which compares what both sides compute, then pairs of windows A B A B …, then figures.
A case whose gate fails is not measured. Results are a JSON file and a table.
"""
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import cases
import flops
import options
import ours
import sides
import summary

ROOT = pathlib.Path(__file__).resolve().parents[1]


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        info = dict(line.split(":", 1) for line in lines.read().split("\n\n")[0].splitlines())
    info = {key.strip(): value.strip() for key, value in info.items()}
    flags = set(info.get("flags", "").split())
    with open("/proc/meminfo", encoding="utf-8") as lines:
        memory = int(next(line for line in lines if line.startswith("MemTotal")).split()[1])
    return {"processor": f"{info.get('model name')}, family {info.get('cpu family')} model {info.get('model')}",
            "cores": os.cpu_count(), "memory_mib": memory >> 10, "kernel": platform.release(),
            "instruction_sets": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_int8"})}


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False).stdout.strip()
    # Results that wait to be committed change nothing of what is measured.
    changed = git("status", "--porcelain", "--", ".", ":!bench/results", ":!docs/performance*")
    return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")


def compare(case, precision, ours_says, peer_says):
    """What the gate found."""
    if case.trains:
        pairs = list(zip(ours_says["losses"], peer_says["losses"]))
        complete = len(ours_says["losses"]) == len(peer_says["losses"]) == cases.GATE_STEPS
        difference = max(abs(one - other) for one, other in pairs) if complete else float("inf")
        said = {"ours": ours_says["losses"], "peer": peer_says["losses"]}
    else:
        difference, said = peer_says["difference"], {}
    same_tokens = ours_says["tokens"] == peer_says["tokens"]
    tolerance = cases.TOLERANCE[precision]
    return {**said, "difference": difference, "tolerance": tolerance, "tokens": [ours_says["tokens"], peer_says["tokens"]],
            "passed": same_tokens and difference <= tolerance}


def measure(case, precision, setup, chosen, peak_gflops):
    """The entry of the results for a case in a precision."""
    entry = {"name": case.name, "precision": precision, "peer": cases.PEERS[precision], "title": case.title}
    begun = time.perf_counter()
    our_side = peer = None
    try:
        our_side, peer = sides.our_side(case, precision, setup), sides.Peer(case, precision, setup, chosen.variant)
        ours_says = our_side.gate()
        entry["gate"] = compare(case, precision, ours_says, peer.gate(ours_says))
        if not entry["gate"]["passed"]:
            return {**entry, "why": f"the gate failed: {entry['gate']['difference']:.2g}, allowed {entry['gate']['tolerance']:g}, "
                                    f"tokens {entry['gate']['tokens']}"}
        entry["gate_seconds"] = time.perf_counter() - begun
        entry["load"], pairs = [os.getloadavg()[0]], []
        for _ in range(chosen.pairs):
            pair = []
            for side in (our_side, peer):
                side.prepare()
                pair.append(side.window())
            pairs.append(pair)
            entry["load"].append(os.getloadavg()[0])
        peaks = [our_side.peak_bytes(), peer.peak_bytes()]
    except ours.Failed as failure:
        return {**entry, "why": f"failed: {failure}"}
    finally:
        for side in (our_side, peer):
            if side:
                side.close()
    work = [flops.window(case, setup.inputs, precision, cached) for cached in (True, False)]
    return {**entry, "pairs": pairs, "ours_seconds_to_first_step": our_side.starts, "took_seconds": time.perf_counter() - begun,
            "figures": summary.summarize(case, precision, pairs, peaks, work, peak_gflops)}


def probe(chosen):
    done = subprocess.run([chosen.peers_python, ROOT / "bench/peers/probe.py", "--threads", str(chosen.threads)],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main():
    chosen = options.parse(("inputs", "stubs", "trainer", "peers-python", "out"), __doc__)
    begun, setup, probed = time.perf_counter(), sides.Setup(chosen), probe(chosen)
    results = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "machine": machine(),
               "thaw": commit(), "threads": chosen.threads, "pairs": chosen.pairs, **probed,
               "load": {"before": os.getloadavg()}, "cases": [], "sweeps": {}}
    out = pathlib.Path(chosen.out)

    def save():
        results["load"]["after"] = os.getloadavg()
        results["took_seconds"] = round(time.perf_counter() - begun)
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    if chosen.sweeps:
        import sweeps
        for name in chosen.sweeps:
            results["sweeps"][name] = sweeps.SWEEPS[name](setup, chosen)
            save()
        return
    for precision in chosen.precisions:
        for case in chosen.cases:
            entry = measure(case, precision, setup, chosen, probed["gflop_per_cpu_second"][precision])
            results["cases"].append(entry)
            save()
            print(" | ".join(summary.speed_row(entry)), flush=True)
    print("\n" + summary.tables(results["cases"]))
    print(f"\n{out}: {results['took_seconds']} s, load {results['load']['before'][0]:.1f} before, {results['load']['after'][0]:.1f} after")
    sys.exit(any("figures" not in entry for entry in results["cases"]))


if __name__ == "__main__":
    main()
