"""From the windows of a case to the figures that are quoted: medians, ranges, ratios pair by pair."""
import statistics


def speed(window, unit):
    return window["tokens"] / window["cpu_seconds" if unit == "cpu_second" else "seconds"]


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def summarize(case, precision, pairs, peaks, flops, peak_gflops):
    """pairs: [(ours, theirs)]; peaks: bytes; flops: of a window; peak_gflops: of a CPU-second. Each of two sides."""
    goal = case.goals[precision]
    sides = {}
    for i, side in enumerate(("ours", "peer")):
        windows = [pair[i] for pair in pairs]
        seconds = statistics.median(window["cpu_seconds"] for window in windows)
        sides[side] = {"tokens_per_cpu_second": spread([speed(window, "cpu_second") for window in windows]),
                       "tokens_per_second": spread([speed(window, "second") for window in windows]),
                       "peak_mib": peaks[i] >> 20, "flop_share": flops[i] / seconds / (peak_gflops * 1e9)}
    ratios = {unit: spread([speed(ours, unit) / speed(peer, unit) for ours, peer in pairs]) for unit in ("cpu_second", "second")}
    memory = peaks[0] / peaks[1]
    return {**sides, "ratio": ratios, "memory": memory, "goal": {"unit": case.unit, "speed": goal.speed, "memory": goal.memory},
            "reached": {"speed": ratios[case.unit]["median"] >= goal.speed,
                        "memory": goal.memory is None or memory <= goal.memory}}


def number(value):
    """Three digits where there are fewer than three before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ranged(values):
    return f"{number(values['median'])} ({number(values['low'])}–{number(values['high'])})"


def mark(reached):
    return "yes" if reached else "no"


def share(value):
    return f"{100 * value:.0f} %"


SPEED = ("case", "peer", "tokens per CPU-second: ours", "the peer's", "tokens per second: ours", "the peer's", "times as fast", "goal")
REST = ("case", "peer", "peak MiB: ours", "the peer's", "share", "goal", "useful FLOPs of the peak: ours", "the peer's", "gate")


def head(entry):
    return [f"{entry['name']} {entry['precision']}", entry["peer"]]


def gate(entry):
    found = entry.get("gate")
    return f"{found['difference']:.1g} of {found['tolerance']:g}" if found else ""


def speed_row(entry):
    if "figures" not in entry:
        return [*head(entry), entry["why"], *[""] * (len(SPEED) - 3)]
    figures = entry["figures"]
    ours, peer, goal = figures["ours"], figures["peer"], figures["goal"]
    per = " (per second)" if goal["unit"] == "second" else ""
    return [*head(entry), ranged(ours["tokens_per_cpu_second"]), ranged(peer["tokens_per_cpu_second"]),
            ranged(ours["tokens_per_second"]), ranged(peer["tokens_per_second"]), ranged(figures["ratio"][goal["unit"]]) + per,
            f"{goal['speed']:g}: {mark(figures['reached']['speed'])}"]


def rest_row(entry):
    if "figures" not in entry:
        return [*head(entry), *[""] * (len(REST) - 3), gate(entry)]
    figures = entry["figures"]
    ours, peer, goal = figures["ours"], figures["peer"], figures["goal"]
    return [*head(entry), f"{ours['peak_mib']:,}", f"{peer['peak_mib']:,}", share(figures["memory"]),
            f"{share(goal['memory'])}: {mark(figures['reached']['memory'])}" if goal["memory"] else "–",
            share(ours["flop_share"]), share(peer["flop_share"]), gate(entry)]


def table(header, rows):
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)])


def tables(entries):
    return "\n\n".join([table(SPEED, map(speed_row, entries)), table(REST, map(rest_row, entries))])
