#!/usr/bin/env python3
"""Runs predictions on thaw-trainer, the same as peers/hf_predict.py, and prints the same JSON line.

  thaw_predict.py --task embed|generate --trainer BIN --stubs DIR --model DIR --data FILE.jsonl [--rows 2000]
                  [--max_length 256] [--new_tokens 64] [--batch 8] [--precision fp32|bf16]

embed: mean pooling of every text, normalised. generate: greedy, --new_tokens after each of --batch prompts (the beginnings
of the texts). First predictions warm the trainer up and are not counted; starting and loading are not either:
first_seconds has them, with one short prediction, which again_seconds has alone.
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
for required in ("task", "trainer", "stubs", "model", "data"):
    parser.add_argument("--" + required, required=True)
parser.add_argument("--rows", type=int, default=2000)
parser.add_argument("--max_length", type=int, default=256)
parser.add_argument("--new_tokens", type=int, default=64)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
parser.add_argument("--save", help="copy the result's file there")
args = parser.parse_args()
sys.path.insert(0, args.stubs)
from thaw.internal import trainer_pb2  # noqa: E402  (found through --stubs)
from thaw.v1 import job_spec_pb2, worker_service_pb2  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
PROMPT_CHARACTERS = 400


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next((int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")), 0)


def receive(connection):
    header = connection.recv(4, socket.MSG_WAITALL)
    if len(header) < 4:
        return None
    (size,) = struct.unpack("<I", header)
    return trainer_pb2.FromTrainer.FromString(connection.recv(size, socket.MSG_WAITALL))


work = tempfile.mkdtemp(prefix="thaw-bench-")
with open(args.data, encoding="utf-8") as lines:
    texts = [json.loads(line)["text"] for line in itertools.islice(lines, args.rows)]
ours, theirs = socket.socketpair()
environment = dict(os.environ, GOMP_SPINCOUNT="1000", OMP_NUM_THREADS=str(args.threads))
started = time.perf_counter()
trainer = subprocess.Popen([args.trainer, "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                           env=environment, stderr=subprocess.DEVNULL)
theirs.close()


def predict(name, rows, new_tokens):
    directory = os.path.join(work, name)
    dataset = os.path.join(directory, "dataset")
    os.makedirs(dataset)
    os.makedirs(os.path.join(directory, "attempt"))
    with open(os.path.join(dataset, "data.jsonl"), "w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": text}) + "\n" for text in rows)
    assignment = worker_service_pb2.Assignment(job="bench", attempt_id=name, attempt=1, micro_step_divisor=1)
    assignment.model.digest = hashlib.sha256(args.model.encode()).hexdigest()
    prediction = assignment.spec.prediction
    prediction.dataset = "dataset"
    prediction.max_length = args.max_length
    prediction.precision = job_spec_pb2.Precision.Value(args.precision.upper())
    if args.task == "embed":
        prediction.embed.text_column = "text"
        prediction.embed.normalize = True
    else:
        prediction.generate.prompt_column = "text"
        prediction.generate.max_new_tokens = new_tokens
        prediction.generate.ignore_end = True
    frame = trainer_pb2.ToTrainer(run=trainer_pb2.Run(
        assignment=assignment, model_dir=args.model, dataset_dir=dataset, work_dir=os.path.join(directory, "attempt"),
        threads=args.threads, warm_key="bench"))
    payload = frame.SerializeToString()
    ours.sendall(struct.pack("<I", len(payload)) + payload)
    while (answer := receive(ours)) is not None:
        if answer.WhichOneof("frame") == "ended":
            if answer.ended.end.outcome != worker_service_pb2.AttemptEnd.SUCCEEDED:
                sys.exit(f"the trainer did not succeed: {answer.ended}")
            return answer.ended, os.path.join(directory, "attempt", answer.ended.result_dir)
    sys.exit("the trainer ended early")


if args.task == "generate":
    texts = [text[:PROMPT_CHARACTERS] for text in texts[:args.batch]]
predict("first", texts[:1], 1)
first = time.perf_counter() - started
again = time.perf_counter()
predict("again", texts[:1], 1)
again = time.perf_counter() - again
predict("warm", texts[:8], 4)
cpu, wall = cpu_seconds(trainer.pid), time.perf_counter()
ended, result = predict("measured", texts, args.new_tokens)
cpu, wall = cpu_seconds(trainer.pid) - cpu, time.perf_counter() - wall
if args.save:
    shutil.copy(next(entry.path for entry in os.scandir(result)), args.save)
print(json.dumps({"who": "thaw", "task": args.task, "tokens": int(ended.metrics["tokens"]), "cpu_seconds": round(cpu, 3),
                  "wall_seconds": round(wall, 3), "peak_mib": peak_mib(trainer.pid),
                  "first_seconds": round(first, 3), "again_seconds": round(again, 3)}))
ours.close()
trainer.wait(timeout=60)
shutil.rmtree(work)
