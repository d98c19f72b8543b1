#!/usr/bin/env python3
"""table.py TITLE RESULTS.jsonl [PEER]: the table of a paired benchmark; lines come in pairs, ours first."""
import json
import statistics
import sys

title, path = sys.argv[1:3]
peer_name = sys.argv[3] if len(sys.argv) > 3 else "Trainer"
with open(path, encoding="utf-8") as lines:
    runs = [json.loads(line) for line in lines]
pairs = list(zip(runs[::2], runs[1::2]))
if not pairs or any((ours["who"], peer["who"]) != ("thaw", "hf") for ours, peer in pairs):
    sys.exit("table.py: the runs do not come in pairs of thaw and hf")


def speed(run):
    return run["tokens"] / run["cpu_seconds"]


def row(name, values, digits):
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"| {name} | {middle:.{digits}f} | {low:.{digits}f}–{high:.{digits}f} |")


print(f"\n{title}; {len(pairs)} pairs\n\n| figure | median | range |\n|---|---|---|")
row("thaw, tokens per CPU-second", [speed(ours) for ours, _ in pairs], 0)
row(f"{peer_name}, tokens per CPU-second", [speed(peer) for _, peer in pairs], 0)
row(f"speed, thaw : {peer_name}", [speed(ours) / speed(peer) for ours, peer in pairs], 2)
row("thaw, peak MiB", [ours["peak_mib"] for ours, _ in pairs], 0)
row(f"{peer_name}, peak MiB", [peer["peak_mib"] for _, peer in pairs], 0)
row(f"memory, thaw : {peer_name}", [ours["peak_mib"] / peer["peak_mib"] for ours, peer in pairs], 2)
