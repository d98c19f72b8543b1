#!/usr/bin/env python3
"""Runs thaw-trainer on the same work as peers/hf_trainer.py and prints the same JSON line.

  thaw_trainer.py --trainer BIN --stubs DIR --model DIR --data FILE.jsonl [--rows 320] [--batch 16] [--max_length 256]
                  [--lora RANK] [--trains everything|head|last:N] [--base_weights as_loaded|nf4] [--epochs 1]
                  [--cache auto|off] [--task classification|lm] [--precision fp32|bf16]

Speaks the trainer's frames itself (proto/thaw/internal/trainer.proto; DIR holds the generated Python messages), so that
what is measured is the program as it ships. CPU time is the trainer's own, read when the first metric point after the
warm-up steps arrives and at its end.
"""
import argparse
import hashlib
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for required in ("trainer", "stubs", "model", "data"):
    parser.add_argument("--" + required, required=True)
parser.add_argument("--rows", type=int, default=320)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--max_length", type=int, default=256)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--warmup", type=int, default=2, help="steps that are not counted")
parser.add_argument("--lora", type=int, default=0, help="train low-rank parts of this rank on all linear layers, not everything")
parser.add_argument("--trains", default="everything", help="everything, head, or last:N for the head and the last N blocks")
parser.add_argument("--base_weights", choices=("as_loaded", "nf4"), default="as_loaded")
parser.add_argument("--task", choices=("classification", "lm"), default="classification")
parser.add_argument("--epochs", type=float, default=1)
parser.add_argument("--cache", choices=("auto", "off"), default="auto", help="the activation cache")
parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
args = parser.parse_args()
sys.path.insert(0, args.stubs)
from thaw.internal import trainer_pb2  # noqa: E402  (found through --stubs)
from thaw.v1 import artifact_pb2, job_spec_pb2, worker_service_pb2  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next((int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")), 0)


def resident_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return {line.split(":")[0]: int(line.split()[1]) // 1024 for line in status if line.startswith("Rss")}


def receive(connection):
    header = connection.recv(4, socket.MSG_WAITALL)
    if len(header) < 4:
        return None
    (size,) = struct.unpack("<I", header)
    return trainer_pb2.FromTrainer.FromString(connection.recv(size, socket.MSG_WAITALL))


work = tempfile.mkdtemp(prefix="thaw-bench-")
dataset = os.path.join(work, "dataset")
os.makedirs(dataset)
os.makedirs(os.path.join(work, "attempt"))
with open(args.data, encoding="utf-8") as lines, open(os.path.join(dataset, "data.jsonl"), "w", encoding="utf-8") as out:
    out.writelines(itertools.islice(lines, args.rows))

assignment = worker_service_pb2.Assignment(job="job-bench", attempt_id=hashlib.sha256(b"bench").hexdigest()[:32],
                                           attempt=1, micro_step_divisor=1)
assignment.dataset.files.add(path="data.jsonl", size=os.path.getsize(os.path.join(dataset, "data.jsonl")))
assignment.dataset.dataset.labels.add(label="0", rows=1)
assignment.dataset.dataset.labels.add(label="1", rows=1)
assignment.dataset.kind = artifact_pb2.Artifact.DATASET
training = assignment.spec.training
training.validation_fraction = 0
if args.task == "lm":
    training.language_modeling.text_column = "text"
    training.language_modeling.layout = training.language_modeling.PER_DOCUMENT
else:
    training.text_classification.text_column = "text"
    training.text_classification.label_column = "label"
training.batch.examples_per_step = args.batch
training.batch.tokens_per_micro_step = 2048
training.max_length = args.max_length
training.seed = 42
training.precision = job_spec_pb2.Precision.Value(args.precision.upper())
training.max_grad_norm = 1.0
training.optimizer.beta1, training.optimizer.beta2 = 0.9, 0.999
training.optimizer.epsilon, training.optimizer.weight_decay = 1e-8, 0.0
training.evaluation.every_epochs = 1
training.evaluation.metric = 3 if args.task == "lm" else 1
training.evaluation.keep_best = False
training.checkpoint.every_steps = 1_000_000
phase = training.phases.add(name="full", learning_rate=5e-5, learning_rate_decay=1.0, epochs=args.epochs)
training.base_weights = {"as_loaded": 1, "nf4": 2}[args.base_weights]
training.activation_cache.use = {"auto": 1, "off": 2}[args.cache]
if args.lora:
    training.added_part.lora.rank, training.added_part.lora.alpha = args.lora, 2 * args.lora
    training.output = training.MERGED if args.base_weights == "as_loaded" else training.ADAPTER
    phase.selector.kind = phase.selector.ADDED_PARTS
elif args.trains == "head":
    phase.selector.head_only = True
elif args.trains.startswith("last:"):
    phase.selector.last_blocks = int(args.trains.removeprefix("last:"))
else:
    phase.selector.everything = True
phase.schedule.shape = 2
phase.optimizer_state = 1
run = trainer_pb2.ToTrainer(run=trainer_pb2.Run(assignment=assignment, model_dir=args.model, dataset_dir=dataset,
                                                work_dir=os.path.join(work, "attempt"), threads=args.threads))

ours, theirs = socket.socketpair()
environment = dict(os.environ, GOMP_SPINCOUNT="1000", OMP_NUM_THREADS=str(args.threads))
trainer = subprocess.Popen([args.trainer, "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                           env=environment, stderr=subprocess.PIPE)
theirs.close()
payload = run.SerializeToString()
ours.sendall(struct.pack("<I", len(payload)) + payload)
start, end, losses, peak, kept, loaded, resident = None, None, [], 0, None, None, None
ended = None
while (frame := receive(ours)) is not None:
    peak = max(peak, peak_mib(trainer.pid))
    if frame.event.log_line.text.startswith("model loaded"):
        loaded, resident = frame.event.log_line.text, resident_mib(trainer.pid)
    if frame.event.log_line.text.startswith("activation cache: holds"):
        kept = frame.event.log_line.text
    if frame.WhichOneof("frame") == "event" and frame.event.WhichOneof("kind") == "metric_points":
        for point in frame.event.metric_points.points:
            values = {value.name: value.value for value in point.values}
            losses.append(values["loss"])
            end = (cpu_seconds(trainer.pid), time.perf_counter(), values["tokens"], point.step)
            if start is None and point.step >= args.warmup:
                start = end
    elif frame.WhichOneof("frame") == "ended":
        ended = frame.ended
        break
ours.close()
trainer.wait(timeout=60)
weights = os.path.join(work, "attempt", "result", "model.safetensors")
if os.path.exists(weights):
    with open(weights, "rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()[:16]
shutil.rmtree(work)
if ended is None or ended.end.outcome != worker_service_pb2.AttemptEnd.SUCCEEDED:
    sys.exit(f"the trainer did not succeed: {ended}\n{trainer.stderr.read().decode()[-2000:]}")
print(json.dumps({"who": "thaw", "steps": end[3] - start[3], "tokens": int(end[2] - start[2]),
                  "cpu_seconds": round(end[0] - start[0], 3), "wall_seconds": round(end[1] - start[1], 3),
                  "loaded": loaded, "resident_mib": resident, "peak_mib": peak, "losses": losses, "first_loss": losses[0], "last_loss": losses[-1],
                  "activation_cache": kept, "weights": weights}))
