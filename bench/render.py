#!/usr/bin/env python3
"""Writes the measured parts of docs/performance.md and its plots from bench/results: render.py [RESULTS.json…]

Of every case and sweep the newest result counts. Between the marks in docs/performance.md everything is replaced.
"""
import json
import pathlib
import re
import statistics
import sys

import plot
import summary

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE, PLOTS = ROOT / "docs/performance.md", ROOT / "docs/performance"
NOTHING = "Nothing is kept in bench/results yet."


def newest(results):
    """(entries of cases, entries by sweep): the newest of each. One without figures, whose gate failed, takes the place of
    none that has some.
    """
    found, swept = {}, {}
    for result in sorted(results, key=lambda result: result["date"]):
        for entry in result["cases"]:
            case = entry["precision"] != "fp32", entry["name"]
            if "figures" in entry or "figures" not in found.get(case, ()):
                found[case] = entry
        for name, entries in result["sweeps"].items():
            swept[name] = entries
    return [entry for _, entry in sorted(found.items())], swept


def runs(results):
    """What was measured with."""
    header = ("date", "commit", "machine", "peers", "threads", "pairs", "peak, GFLOP per CPU-second", "load before, after", "took")
    rows = []
    for result in results:
        machine, versions = result["machine"], result["versions"]
        rows.append([result["date"], result["thaw"], f"{machine['processor']}, {machine['cores']} cores, {machine['memory_mib'] >> 10} GiB",
                     ", ".join(f"{name} {version}" for name, version in versions.items()), str(result["threads"]), str(result["pairs"]),
                     ", ".join(f"{name} {value:,.0f}" for name, value in result["gflop_per_cpu_second"].items()),
                     f"{result['load']['before'][0]:.1f}, {result['load']['after'][0]:.1f}", f"{result['took_seconds'] / 60:.0f} min"])
    return summary.table(header, rows)


def plot_case(name, entries):
    """The file with the bars of one case."""
    rows, unit = [], entries[0]["figures"]["goal"]["unit"]
    for entry in entries:
        figures = entry["figures"]
        for side, label, colour in (("peer", entry["peer"], "peer"), ("ours", "Thaw", "ours")):
            figure = figures[side]
            note = f"{figure['peak_mib']:,} MiB"
            if side == "ours":
                note = f"{figures['ratio'][unit]['median']:.2f} times, {note}"
            rows.append((f"{label}, {entry['precision']}", colour, figure[f"tokens_per_{unit}"], note))
    path = PLOTS / f"{name.replace('.', '_')}.svg"
    axis = f"tokens per {'CPU-second' if unit == 'cpu_second' else 'second'}: median and range; peak memory"
    path.write_text(plot.bars(f"{name}: {entries[0]['title']}", axis, rows), encoding="utf-8")
    return path


def case_part(entries):
    by_name = {}
    for entry in entries:
        if "figures" in entry:
            by_name.setdefault(entry["name"], []).append(entry)
    images = [f"![{name}]({plot_case(name, own).relative_to(PAGE.parent)})" for name, own in sorted(by_name.items())]
    return "\n\n".join([summary.tables(entries), *images])


def threads_part(entries):
    rows = []
    for entry in entries:
        speeds = [summary.number(statistics.median(values)) for values in entry["tokens_per_second"].values()]
        rows.append([entry["case"], entry["precision"], *speeds, f"{entry['gain']:.2f}"])
    counts = list(entries[0]["tokens_per_second"])
    return summary.table(("case", "precision", *(f"tokens per second, threads: {count}" for count in counts), "gain"), rows)


def lengths_part(entries):
    series = []
    for precision, colour in (("fp32", "ours"), ("bf16", "third")):
        points = [(entry["length"], entry["cpu_milliseconds_per_token"]) for entry in entries if entry["precision"] == precision]
        if points:
            series.append((precision, colour, points))
    path = PLOTS / "lengths.svg"
    path.write_text(plot.lines("LoRA on SmolLM2-135M, 8,192 tokens a step", "tokens of a document", "ms of CPU a token", series),
                    encoding="utf-8")
    rows = [[f"{entry['length']:,}", entry["precision"], f"{entry['cpu_milliseconds_per_token']:.2f}", f"{entry['peak_mib']:,}",
             summary.share(entry["attention_share"])] for entry in entries]
    header = ("tokens of a document", "precision", "ms of CPU a token", "peak MiB", "attention's share of the FLOPs")
    return summary.table(header, rows) + f"\n\n![lengths]({path.relative_to(PAGE.parent)})"


def starts_part(entries):
    rows = [[entry["model"], entry["case"], entry["precision"], summary.ranged(summary.spread(entry["first_step_begins"])),
             summary.ranged(summary.spread(entry["first_step_done"]))] for entry in entries]
    return summary.table(("model", "case", "precision", "first step begins after s", "is done after s"), rows)


SWEEPS = {"threads": threads_part, "lengths": lengths_part, "starts": starts_part}


def replace(page, name, part):
    """Puts the part between the marks of its name."""
    marks = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
    assert pattern.search(page), f"docs/performance.md lacks the mark {marks[0]}"
    return pattern.sub(lambda _: f"{marks[0]}\n{part}\n{marks[1]}", page)


def main():
    paths = [pathlib.Path(path) for path in sys.argv[1:]] or sorted((ROOT / "bench/results").glob("*.json"))
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    entries, swept = newest(results)
    PLOTS.mkdir(exist_ok=True)
    page = PAGE.read_text(encoding="utf-8")
    page = replace(page, "runs", runs(results) if results else NOTHING)
    page = replace(page, "cases", case_part(entries) if entries else NOTHING)
    for name, part in SWEEPS.items():
        page = replace(page, name, part(swept[name]) if name in swept else NOTHING)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
