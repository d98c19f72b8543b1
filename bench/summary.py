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


HEADER = ("case", "peer", "tokens per CPU-second, ours", "peer", "tokens per second, ours", "peer", "speed", "goal", "reached",
          "memory MiB, ours", "peer", "share", "at most", "reached", "of the peak, ours", "peer")


def row(entry):
    """Cells of the table for one case of the results."""
    named = f"{entry['name']} {entry['precision']}"
    if "figures" not in entry:
        return [named, entry["peer"], entry["why"], *[""] * (len(HEADER) - 3)]
    figures = entry["figures"]
    ours, peer, goal = figures["ours"], figures["peer"], figures["goal"]
    share = f"{100 * goal['memory']:.0f} %" if goal["memory"] else "–"
    return [named, entry["peer"], ranged(ours["tokens_per_cpu_second"]), ranged(peer["tokens_per_cpu_second"]),
            ranged(ours["tokens_per_second"]), ranged(peer["tokens_per_second"]),
            ranged(figures["ratio"][goal["unit"]]), f"{goal['speed']:g}", mark(figures["reached"]["speed"]),
            f"{ours['peak_mib']:,}", f"{peer['peak_mib']:,}", f"{100 * figures['memory']:.0f} %", share,
            mark(figures["reached"]["memory"]), f"{100 * ours['flop_share']:.0f} %", f"{100 * peer['flop_share']:.0f} %"]


def table(header, rows):
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)])
