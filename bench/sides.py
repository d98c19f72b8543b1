"""The two sides of a case behind one set of calls: gate, prepare, window, peak_bytes, close.

window() does the work of a window and says {"tokens", "steps", "cpu_seconds", "seconds"}; before and after it the side holds
still, so that the other can be measured. What a window is depends on the case: one more pass over its rows in a training
that goes on, a whole program from fresh weights, or a prediction.
"""
import dataclasses
import json
import pathlib
import select
import subprocess
import time

import cases
import data_order
import ours
import spec

ROOT = pathlib.Path(__file__).resolve().parents[1]
SILENCE = 900  # seconds without an answer that end a side
WARM_STEPS = 2
VALIDATION_ROWS = 2


class Setup:
    """What a run of the benchmark measures with."""

    def __init__(self, arguments):
        self.inputs = cases.Inputs(arguments.inputs)
        self.messages = ours.Messages(arguments.stubs)
        self.trainer, self.peers_python, self.threads = arguments.trainer, arguments.peers_python, arguments.threads

    def new_trainer(self):
        return ours.Trainer(self.messages, self.trainer, self.threads, SILENCE)


def gate_orders(case):
    rows, passes = case.gate_passes()
    return [data_order.order(rows, cases.SEED, epoch) for epoch in range(passes)]


class OurTraining:
    """A training by thaw-trainer. One that goes on is stopped by signal between windows."""

    def __init__(self, case, precision, setup, data=None):
        """data: a file of rows other than the case's own."""
        self.case, self.precision, self.setup, self.data = case, precision, setup, data
        self.trainer, self.peak, self.starts = None, 0, []

    def begin(self, trainer, which, phases, batch, max_length, validate=False):
        case, gate = self.case, which == "gate"
        asked = spec.training(case, self.precision, phases, batch, max_length)
        if validate:
            # Metric points are at most ten a second, but there is one before every evaluation.
            asked["training"]["evaluation"] = {"keepBest": False, "everySteps": 1}
        base = self.setup.inputs.model(case.model, gate)
        data = self.data or self.setup.inputs.data(case, which)
        trainer.run(asked, self.setup.inputs.adapter(case) or base, data, base=base if case.adapter else None,
                    validation=data if validate else None, validation_rows=VALIDATION_ROWS)

    def gate(self):
        case = self.case
        with self.setup.new_trainer() as trainer:
            self.begin(trainer, "gate", case.gate_phases(), case.gate_rows, case.gate_length, validate=True)
            points = list(trainer.points())
        return {"losses": [values["loss"] for _, values in points], "tokens": int(points[-1][1]["tokens"])}

    def prepare(self):
        if self.case.whole or self.trainer:
            return
        self.trainer = self.setup.new_trainer()
        self.begin(self.trainer, self.precision, self.endless(), self.case.batch, self.case.max_length)
        self.points = self.trainer.points()
        self.at = self.advance(self.case.steps[self.precision])
        self.starts.append(self.trainer.first_step)

    def endless(self):
        """As many passes as nobody asks for."""
        return [dataclasses.replace(self.case.phases[0], epochs=1000)]

    def advance(self, to_step):
        """Goes on to the first point at or after the step, and stops there."""
        for step, values in self.points:
            if step >= to_step:
                self.trainer.stop()
                self.peak = self.trainer.peak_bytes()
                return step, int(values["tokens"])
        raise ours.Failed("the training ended before its time")

    def window(self):
        if self.case.whole:
            return self.whole()
        step, tokens = self.at
        since = self.trainer.clocks()
        self.trainer.go_on()
        self.at = self.advance(step + self.case.steps[self.precision])
        return {**self.trainer.passed(since), "steps": self.at[0] - step, "tokens": self.at[1] - tokens}

    def whole(self):
        """From the loaded model to the last step: what is set up for phases and caches counts, writing a result does not."""
        last = self.case.steps[self.precision] * sum(phase.epochs for phase in self.case.phases)
        with self.setup.new_trainer() as trainer:
            self.begin(trainer, self.precision, self.case.phases, self.case.batch, self.case.max_length)
            for step, values in trainer.points():
                if step >= last:
                    figures = {**trainer.passed(trainer.begin), "steps": step, "tokens": int(values["tokens"])}
                    self.peak = max(self.peak, trainer.peak_bytes())
                    self.starts.append(trainer.first_step)
                    return figures
        raise ours.Failed("the program ended before its last step")

    def peak_bytes(self):
        return self.peak

    def close(self):
        if self.trainer:
            self.trainer.__exit__()


class OurPrediction:
    """Predictions of one warm thaw-trainer."""

    def __init__(self, case, precision, setup):
        self.case, self.precision, self.setup = case, precision, setup
        self.trainer, self.starts = setup.new_trainer(), []

    def predict(self, which, new_tokens, rows=None):
        """(the result's directory, the figures)."""
        self.since = self.trainer.clocks()
        work = self.trainer.run(spec.prediction(self.case, self.precision, new_tokens), self.setup.inputs.model(self.case.model),
                                self.setup.inputs.data(self.case, which), rows=rows, warm_key="bench")
        *_, last = self.trainer.frames()
        return work / last.ended.result_dir, dict(last.ended.metrics)

    def gate(self):
        result, figures = self.predict("gate", cases.GATE_STEPS)
        self.starts.append(time.perf_counter() - self.trainer.started)
        tokens = int(figures["prompt_tokens" if self.case.task == "generate" else "tokens"])
        return {"answers": str(next(result.iterdir())), "tokens": tokens}

    def prepare(self):
        if self.trainer.runs == 1:  # the gate alone
            self.predict(self.precision, 4, rows=64)

    def window(self):
        _, figures = self.predict(self.precision, self.case.new_tokens)
        return {**self.trainer.passed(self.since), "steps": 1, "tokens": int(figures["tokens"])}

    def peak_bytes(self):
        return self.trainer.peak_bytes()

    def close(self):
        self.trainer.__exit__()


class Peer:
    """The peer's process (peers/peer.py), told line by line."""

    def __init__(self, case, precision, setup, variant=()):
        self.case, self.log = case, open(setup.inputs.directory / "peer.log", "w+", encoding="utf-8")
        options = [f"--{name}" for name, on in case.tuned.items() if on] if precision == "bf16" else []
        self.process = subprocess.Popen(
            [setup.peers_python, ROOT / "bench/peers/peer.py", "--case", case.name, "--precision", precision, "--inputs",
             setup.inputs.directory, "--threads", str(setup.threads), *options, *variant],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.starts = []

    def ask(self, **command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        ready, _, _ = select.select([self.process.stdout], [], [], SILENCE)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.log.seek(0)
            raise ours.Failed(f"the peer {'ended' if ready else 'fell silent'}: {self.log.read()[-1500:]}")
        return json.loads(line)

    def gate(self, of_ours):
        if self.case.trains:
            return self.ask(do="gate", orders=gate_orders(self.case))
        return self.ask(do="gate", answers=of_ours["answers"])

    def prepare(self):
        self.ask(do="prepare", warm_steps=WARM_STEPS)

    def window(self):
        since = ours.cpu_seconds(self.process.pid), time.perf_counter()
        done = self.ask(do="window")
        cpu, wall = ours.cpu_seconds(self.process.pid) - since[0], time.perf_counter() - since[1]
        return {"cpu_seconds": cpu, "seconds": wall, "steps": done["steps"], "tokens": done["tokens"]}

    def peak_bytes(self):
        return ours.peak_bytes(self.process.pid)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


def our_side(case, precision, setup):
    return (OurTraining if case.trains else OurPrediction)(case, precision, setup)
