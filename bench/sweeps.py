"""Our side alone: how speed grows with threads, what a token costs in documents of any length, how soon a first step begins."""
import dataclasses
import json
import statistics

import cases
import flops
import sides

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
SWEEP_CASES = {"threads": ("C2", "C3", "C6"), "starts": ("C6", "C2")}
STEPS = 2  # that are counted


def threads(setup, chosen):
    """Windows with one thread and with all, in turn; tokens per second."""
    found = []
    for name in SWEEP_CASES["threads"]:
        for precision in chosen.precisions:
            case, counts = cases.by_name(name), (1, setup.threads)
            running = {}
            for count in counts:
                setup.threads = count
                running[count] = sides.our_side(case, precision, setup)
                running[count].prepare()
            speeds = {count: [] for count in counts}
            for _ in range(chosen.pairs):
                for count in counts:
                    window = running[count].window()
                    speeds[count].append(window["tokens"] / window["seconds"])
            for side in running.values():
                side.close()
            one, all_of_them = (statistics.median(speeds[count]) for count in counts)
            found.append({"case": name, "precision": precision, "tokens_per_second": {str(count): speeds[count] for count in counts},
                          "gain": all_of_them / one})
            print(f"{name} {precision}: {counts[1]} threads are {all_of_them / one:.2f} times as fast as one", flush=True)
    return found


def long_rows(case, setup, length, count):
    """A file of `count` texts of at least so many tokens, out of the case's own."""
    with open(setup.inputs.data(case, "fp32"), encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    path = setup.inputs.directory / "data" / f"length_{length}.jsonl"
    with open(path, "w", encoding="utf-8") as out:
        for i in range(count):
            # Each of these texts has at least max_length tokens.
            parts = [texts[(i + j) % len(texts)] for j in range(-(-length // case.max_length))]
            out.write(json.dumps({"text": "\n".join(parts)}) + "\n")
    return path


def lengths(setup, chosen):
    """Documents of 128 to 8,192 tokens, as many in a step as make 8,192 tokens: LoRA on SmolLM2."""
    found, case = [], cases.by_name("C2")
    shape = flops.Shape(setup.inputs.model(case.model))
    for precision in chosen.precisions:
        for length in LENGTHS:
            batch = LENGTHS[-1] // length
            data = long_rows(case, setup, length, batch)
            longer = dataclasses.replace(case, batch=batch, max_length=length, rows={precision: batch})
            side = sides.OurTraining(longer, precision, setup, data=data)
            try:
                side.prepare()
                windows = [side.window() for _ in range(STEPS)]
                spent = sum(window["cpu_seconds"] for window in windows) / sum(window["tokens"] for window in windows)
                work = flops.trained(longer, shape, {"tokens": length, "lengths": [length], "loss_units": length - 1}, False)
                attention = 3 * shape.blocks * shape.attention([length])
                found.append({"length": length, "precision": precision, "cpu_milliseconds_per_token": 1e3 * spent,
                              "peak_mib": side.peak_bytes() >> 20,
                              "attention_share": attention / work})
                print(f"{length} tokens {precision}: {1e3 * spent:.2f} ms of CPU a token, {side.peak_bytes() >> 20} MiB", flush=True)
            finally:
                side.close()
    return found


def starts(setup, chosen):
    """Seconds from the start of the process until the first step begins, and until it is done."""
    found = []
    for name in SWEEP_CASES["starts"]:
        for precision in chosen.precisions:
            case, begun, done = cases.by_name(name), [], []
            for _ in range(chosen.pairs):
                side = sides.our_side(case, precision, setup)
                with setup.new_trainer() as trainer:
                    side.begin(trainer, precision, case.phases, case.batch, case.max_length)
                    next(trainer.points())
                    begun.append(trainer.steps_begin)
                    done.append(trainer.first_step)
            found.append({"case": name, "precision": precision, "model": case.model, "first_step_begins": begun, "first_step_done": done})
            print(f"{name} {precision}: the first step begins after {statistics.median(begun):.2f} s, "
                  f"is done after {statistics.median(done):.2f} s", flush=True)
    return found


SWEEPS = {"threads": threads, "lengths": lengths, "starts": starts}
