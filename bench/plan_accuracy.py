#!/usr/bin/env python3
"""What plans say beside what the trainings then take, preset by preset, as a table.

  THAW_BIN=build/bin plan_accuracy.py --model DIR --data FILE.jsonl [--rows 1000] [--methods head,full,…]

A server resolves the presets; thaw-trainer then runs the plan and the training, each in a process of its own, whose CPU
time and peak memory (VmHWM) are read until it ends. Run it with the Python of script/bootstrap.
"""
import argparse
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/testing"))
import thaw_services  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--rows", type=int, default=1000)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--methods", default="head,partial,full,gradual,head_then_full,bitfit,lora")
args = parser.parse_args()


def used(pid):
    """CPU seconds and peak bytes so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        peak = next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM")), 0)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), peak


def run(trainer_pb2, artifact_pb2, spec, dataset, artifact):
    """CPU seconds, peak bytes and work_dir of a trainer that runs `spec`."""
    work = tempfile.mkdtemp(prefix="thaw-bench-")
    message = trainer_pb2.ToTrainer()
    message.run.model_dir, message.run.dataset_dir, message.run.work_dir = args.model, dataset, work
    message.run.threads = args.threads
    assignment = message.run.assignment
    assignment.job, assignment.attempt, assignment.micro_step_divisor = "job-bench", 1, 1
    assignment.attempt_id = hashlib.sha256(b"bench").hexdigest()[:32]
    assignment.spec.CopyFrom(spec)
    assignment.dataset.CopyFrom(artifact)
    ours, theirs = socket.socketpair()
    environment = dict(os.environ, GOMP_SPINCOUNT="1000", OMP_NUM_THREADS=str(args.threads))
    trainer = subprocess.Popen([thaw_services.BIN / "thaw-trainer", "--fd", str(theirs.fileno())],
                               pass_fds=[theirs.fileno()], env=environment, stderr=subprocess.DEVNULL)
    theirs.close()
    payload = message.SerializeToString()
    ours.sendall(struct.pack("<I", len(payload)) + payload)
    cpu, peak, ended = 0, 0, None
    while ended is None:
        header = ours.recv(4, socket.MSG_WAITALL)
        if len(header) < 4:
            sys.exit("the trainer ended without a word")
        frame = trainer_pb2.FromTrainer.FromString(ours.recv(struct.unpack("<I", header)[0], socket.MSG_WAITALL))
        now, high = used(trainer.pid)
        cpu, peak = now, max(peak, high)
        if frame.WhichOneof("frame") == "checkpoint_ready":
            shutil.rmtree(pathlib.Path(work) / frame.checkpoint_ready.dir)
        if frame.WhichOneof("frame") == "ended":
            ended = frame.ended
    ours.close()
    trainer.wait(timeout=60)
    if not ended.result_dir:
        sys.exit(f"the trainer did not succeed: {ended}")
    return cpu, peak, pathlib.Path(work)


def main():
    with thaw_services.Services(thaw_services.BIN / "thaw-trainer") as services:
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"),
                        f"--python_out={services.directory / 'stubs'}",
                        *map(str, (ROOT / "proto/thaw/internal").glob("*.proto"))], check=True)
        from google.protobuf import json_format
        from thaw.internal import trainer_pb2
        from thaw.v1 import artifact_pb2, job_pb2
        dataset = services.directory / "rows"
        dataset.mkdir()
        with open(args.data, encoding="utf-8") as lines:
            (dataset / "data.jsonl").write_text("".join(itertools.islice(lines, args.rows)), encoding="utf-8")
        services.thaw("model", "import", args.model, "--name", "model")
        services.thaw("dataset", "import", dataset / "data.jsonl", "--name", "data")
        shown = services.thaw("dataset", "show", "data", "--json").stdout.splitlines()[-1]
        artifact = json_format.Parse(shown, artifact_pb2.Artifact(), ignore_unknown_fields=True)
        print("| method | CPU s planned | taken | off | MiB planned | taken | off | plan took |\n|" + "---|" * 8)
        for method in args.methods.split(","):
            answer = services.thaw("submit", "--model", "model", "--data", "data", "--method", method,
                                   "--validate_only", "--json").stdout.splitlines()[-1]
            spec = json_format.Parse(answer, job_pb2.Job(), ignore_unknown_fields=True).resolved_spec
            spec.resources.device_kind = spec.resources.CPU
            plan = type(spec)()
            plan.CopyFrom(spec)
            plan.plan.training.CopyFrom(spec.training)
            plan_cpu, _, work = run(trainer_pb2, artifact_pb2, plan, str(dataset), artifact)
            report = json.loads((work / "result/plan.json").read_text())
            shutil.rmtree(work)
            cpu, peak, work = run(trainer_pb2, artifact_pb2, spec, str(dataset), artifact)
            shutil.rmtree(work)
            planned, memory = report["cpu_seconds"], int(report["peak_memory_bytes"])
            print(f"| {method} | {planned:.1f} | {cpu:.1f} | {100 * (planned / cpu - 1):+.0f} % | {memory >> 20} | "
                  f"{peak >> 20} | {100 * (memory / peak - 1):+.0f} % | {plan_cpu:.1f} s |", flush=True)
        print(f"\n{args.rows} rows; load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
