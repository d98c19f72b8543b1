#!/usr/bin/env python3
"""Our side: thaw-trainer as it ships, given work and listened to over its socket (proto/thaw/internal/trainer.proto).

  ours.py SPEC.json --trainer BIN --stubs DIR --model DIR --data FILE.jsonl [--rows N] [--base DIR] [--threads 2]

As a program: runs one training, a JobSpec with everything resolved, and prints tokens per CPU-second from the loading of the
model to the last step, peak memory, losses, and what it said of its activation cache, as JSON. Uses the Python of
script/bootstrap; DIR of --stubs holds the messages, which script/bench generates.
"""
import argparse
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time


def cpu_seconds(pid):
    """Of all threads, by the kernel's own clock of the process."""
    return time.clock_gettime((~pid << 3) | 2)


def peak_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM")), 0)


class Failed(Exception):
    """The trainer did not do what it was asked for."""


class Messages:
    """The generated modules, found in the directory of stubs."""

    def __init__(self, stubs):
        sys.path.insert(0, str(stubs))
        from google.protobuf import json_format
        from thaw.internal import trainer_pb2
        from thaw.v1 import artifact_pb2, job_spec_pb2, worker_service_pb2
        self.json, self.trainer, self.artifact = json_format, trainer_pb2, artifact_pb2
        self.spec, self.worker = job_spec_pb2, worker_service_pb2


class Trainer:
    """One process of thaw-trainer; use as a context manager. Times out where it falls silent."""

    def __init__(self, messages, binary, threads, silence=600):
        self.messages, self.threads = messages, threads
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="thaw-bench-"))
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(silence)
        self.started = time.perf_counter()
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        self.log = open(self.directory / "log", "w+b")
        self.process = subprocess.Popen([binary, "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment,
                                        stdout=self.log, stderr=self.log)
        theirs.close()
        self.runs, self.begin = 0, None

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.kill()
        self.process.wait()
        self.socket.close()
        self.log.close()
        shutil.rmtree(self.directory)

    def run(self, spec, model, data, rows=None, base=None, validation=None, validation_rows=None, warm_key=""):
        """Asks for one run of a JobSpec as JSON, on so many rows of a file; answers come from frames()."""
        work = self.work()
        run = self.messages.trainer.Run(model_dir=str(model), work_dir=str(work), threads=self.threads, warm_key=warm_key,
                                        base_dir=str(base or ""))
        assignment = run.assignment
        assignment.job, assignment.attempt, assignment.micro_step_divisor = "job-bench", 1, 1
        assignment.attempt_id = hashlib.sha256(str(self.runs).encode()).hexdigest()[:32]
        assignment.model.digest = hashlib.sha256(str(model).encode()).hexdigest()
        self.messages.json.ParseDict(spec, assignment.spec)
        run.dataset_dir = str(self.dataset("rows", data, rows, assignment.dataset))
        if validation:
            run.validation_dataset_dir = str(self.dataset("validation", validation, validation_rows,
                                                          assignment.validation_dataset))
        self.send(run)
        return work

    def work(self):
        """A directory for the next run."""
        self.runs += 1
        directory = self.directory / str(self.runs)
        directory.mkdir()
        return directory

    def send(self, run):
        payload = self.messages.trainer.ToTrainer(run=run).SerializeToString()
        self.socket.sendall(struct.pack("<I", len(payload)) + payload)

    def dataset(self, name, data, rows, artifact):
        """A directory of one file, and the artifact that tells of it."""
        directory = self.directory / f"{name}-{self.runs}"
        directory.mkdir()
        with open(data, encoding="utf-8") as lines, open(directory / "data.jsonl", "w", encoding="utf-8") as out:
            out.writelines(itertools.islice(lines, rows))
        artifact.kind = self.messages.artifact.Artifact.DATASET
        artifact.files.add(path="data.jsonl", size=os.path.getsize(directory / "data.jsonl"))
        return directory

    def frames(self):
        """What the trainer says, up to how it ended."""
        while True:
            header = self.socket.recv(4, socket.MSG_WAITALL)
            if len(header) < 4:
                self.log.seek(0)
                raise Failed(f"the trainer ended without a word: {self.log.read().decode(errors='replace')[-2000:]}")
            payload = self.socket.recv(struct.unpack("<I", header)[0], socket.MSG_WAITALL)
            frame = self.messages.trainer.FromTrainer.FromString(payload)
            yield frame
            if frame.WhichOneof("frame") == "checkpoint_ready":
                shutil.rmtree(self.directory / str(self.runs) / frame.checkpoint_ready.dir)
            if frame.WhichOneof("frame") == "ended":
                if frame.ended.end.outcome != self.messages.worker.AttemptEnd.SUCCEEDED:
                    raise Failed(f"the trainer did not succeed: {frame.ended.end.failure.message or frame.ended}")
                return

    def points(self):
        """(step, values) of every metric point of training steps. first_step is noted, in seconds from the start."""
        self.logs, self.first_step, self.steps_begin = [], None, None
        for frame in self.frames():
            if frame.event.HasField("log_line"):
                self.logs.append(frame.event.log_line.text)
                if self.logs[-1].startswith("model loaded"):
                    self.begin = self.clocks()
            if frame.event.HasField("phase_start") and self.steps_begin is None:
                self.steps_begin = time.perf_counter() - self.started
            for point in frame.event.metric_points.points:
                values = {value.name: value.value for value in point.values if not value.group}
                if "loss" in values:
                    self.first_step = self.first_step or time.perf_counter() - self.started
                    yield point.step, values

    def clocks(self):
        """CPU seconds and seconds now."""
        return cpu_seconds(self.process.pid), time.perf_counter()

    def passed(self, since):
        cpu, wall = self.clocks()
        return {"cpu_seconds": cpu - since[0], "seconds": wall - since[1]}

    def stop(self):
        """Lets the other side work; go_on() continues at the same place."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def peak_bytes(self):
        return peak_bytes(self.process.pid)


def train(messages, arguments):
    spec = json.loads(pathlib.Path(arguments.spec).read_text(encoding="utf-8"))
    with Trainer(messages, arguments.trainer, arguments.threads) as trainer:
        trainer.run(spec, arguments.model, arguments.data, rows=arguments.rows, base=arguments.base)
        losses = []
        for step, values in trainer.points():
            losses.append(values["loss"])
            figures = {**trainer.passed(trainer.begin), "steps": step, "tokens": int(values["tokens"]),
                       "peak_mib": trainer.peak_bytes() >> 20}
        figures["tokens_per_cpu_second"] = round(figures["tokens"] / figures["cpu_seconds"], 1)
        return {**figures, "seconds_to_first_step": trainer.steps_begin, "first_loss": losses[0], "last_loss": losses[-1],
                "activation_cache": [text for text in trainer.logs if text.startswith("activation cache")]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    for required in ("trainer", "stubs", "model", "data"):
        parser.add_argument("--" + required, required=True)
    parser.add_argument("--base", help="with an adapter as the model: what it builds on")
    parser.add_argument("--rows", type=int, help="only so many")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(train(Messages(arguments.stubs), arguments)))


if __name__ == "__main__":
    main()
