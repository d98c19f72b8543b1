"""Runs thaw-trainer as its worker does: a process an attempt, spoken to in frames (proto/thaw/internal/trainer.proto)."""
import hashlib
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPS = pathlib.Path(os.environ["THAW_DEPS"])
TRAINER = pathlib.Path(os.environ["THAW_BIN"]) / "thaw-trainer"


def import_messages(directory):
    """Generates the Python messages below `directory` and imports them."""
    directory.mkdir(parents=True, exist_ok=True)
    protos = [str(path) for part in ("v1", "internal") for path in sorted((ROOT / "proto/thaw" / part).glob("*.proto"))]
    subprocess.run([DEPS / "python/bin/python", "-m", "grpc_tools.protoc", "-I", ROOT / "proto", f"--python_out={directory}",
                    *protos], check=True)
    # Behind this Python's own packages: protobuf comes from there if it is nowhere else.
    sys.path.append(str(next((DEPS / "python/lib").glob("python3*/site-packages"))))
    sys.path.insert(0, str(directory))
    from google.protobuf import json_format
    from thaw.internal import trainer_pb2
    return json_format, trainer_pb2


class Refused(Exception):
    """The attempt failed; the text is what the user would read."""


class TrainerProcess:
    """Attempts below `directory`, numbered in the order of their beginning."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.json_format, self.pb = import_messages(self.directory / "messages")
        self.attempts = 0
        self.bases = {}  # of adapters, by directory

    def run(self, model, rows, work, tokenizer=None):
        """Runs the work of a JobSpec ({"training": …} or {"prediction": …}) on the rows; gives the result's directory.

        tokenizer: the directory of another tokenizer for a training."""
        self.attempts += 1
        attempt = self.directory / f"attempt-{self.attempts}"
        (attempt / "dataset").mkdir(parents=True)
        (attempt / "work").mkdir()
        with open(attempt / "dataset/data.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        run = self.pb.Run(model_dir=str(model), dataset_dir=str(attempt / "dataset"), work_dir=str(attempt / "work"), threads=1)
        run.tokenizer_dir, run.base_dir = str(tokenizer or ""), str(self.bases.get(str(model), ""))
        run.assignment.attempt = run.assignment.micro_step_divisor = 1
        run.assignment.attempt_id = hashlib.sha256(str(attempt).encode()).hexdigest()[:32]
        self.json_format.ParseDict(work, run.assignment.spec)
        end = self._exchange(run, attempt / "stderr")
        if end.end.outcome != end.end.SUCCEEDED:
            raise Refused(end.end.failure.message or str(end.end))
        return attempt / "work" / end.result_dir

    def train(self, model, rows, task, tokenizer=None, **changes):
        """A training with a few steps at a high rate; `changes` are fields of Training."""
        training = {task: {}, "validation_fraction": 0, "batch": {"examples_per_step": 8, "tokens_per_micro_step": 256},
                    "max_length": 48, "seed": 7, "evaluation": {"keep_best": False},
                    "phases": [{"selector": {"everything": True}, "learning_rate": 1e-2, "steps": 6}]}
        return self.run(model, rows, {"training": {**training, **changes}}, tokenizer)

    def predict(self, model, rows, task, **options):
        """The lines of a prediction's answer; of embed the file with the vectors."""
        result = self.run(model, rows, {"prediction": {task: options, "max_length": 512, "dataset": "dataset"}})
        if task == "embed":
            return result / "embeddings.safetensors"
        with open(result / "predictions.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def _exchange(self, run, log):
        ours, theirs = socket.socketpair()
        with open(log, "wb") as errors:
            process = subprocess.Popen([TRAINER, "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()], stderr=errors,
                                       stdout=errors, env=dict(os.environ, OMP_NUM_THREADS="1"))
        theirs.close()
        payload = self.pb.ToTrainer(run=run).SerializeToString()
        ended = None
        try:
            ours.sendall(struct.pack("<I", len(payload)) + payload)
            while ended is None and len(header := ours.recv(4, socket.MSG_WAITALL)) == 4:
                frame = self.pb.FromTrainer.FromString(ours.recv(struct.unpack("<I", header)[0], socket.MSG_WAITALL))
                if frame.WhichOneof("frame") == "ended":
                    ended = frame.ended
        except ConnectionError:
            pass  # it ended before it had read all: what it said is below
        ours.close()
        process.wait(timeout=120)
        if ended is None:
            raise AssertionError(f"the trainer exited with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        return ended
