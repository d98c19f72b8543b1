#!/usr/bin/env python3
"""What plans say beside what the trainings then take, preset by preset, as a table.

  THAW_BIN=build/bin plan_accuracy.py --model DIR --data FILE.jsonl [--rows 1000] [--methods head,full,…]

A server resolves the presets; thaw-trainer then runs the plan and the training, each in a process of its own, whose CPU
time and peak memory (VmHWM) are read until it ends. Run it with the Python of script/bootstrap.
"""
import argparse
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import ours

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


def run(messages, spec):
    """CPU seconds and peak bytes of a trainer that runs `spec`, and what it plans if that is its work."""
    with ours.Trainer(messages, thaw_services.BIN / "thaw-trainer", args.threads) as trainer:
        work = trainer.run(messages.json.MessageToDict(spec), args.model, args.data, rows=args.rows)
        peak = 0
        for frame in trainer.frames():
            cpu, peak = trainer.clocks()[0], max(peak, trainer.peak_bytes())
        plan = work / frame.ended.result_dir / "plan.json"
        return cpu, peak, json.loads(plan.read_text(encoding="utf-8")) if plan.exists() else None


def main():
    with thaw_services.Services(thaw_services.BIN / "thaw-trainer") as services:
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"),
                        f"--python_out={services.directory / 'stubs'}",
                        *map(str, (ROOT / "proto/thaw/internal").glob("*.proto"))], check=True)
        messages = ours.Messages(services.directory / "stubs")
        rows = services.directory / "rows.jsonl"
        with open(args.data, encoding="utf-8") as lines:
            rows.write_text("".join(itertools.islice(lines, args.rows)), encoding="utf-8")
        services.thaw("model", "import", args.model, "--name", "model")
        services.thaw("dataset", "import", rows, "--name", "data")
        print("| method | CPU s planned | taken | off | MiB planned | taken | off | plan took |\n|" + "---|" * 8)
        for method in args.methods.split(","):
            answer = services.thaw("submit", "--model", "model", "--data", "data", "--method", method,
                                   "--validate_only", "--json").stdout.splitlines()[-1]
            spec = messages.json.Parse(answer, services.module("job_pb2").Job(), ignore_unknown_fields=True).resolved_spec
            spec.resources.device_kind = spec.resources.CPU
            plan = messages.spec.JobSpec()
            plan.CopyFrom(spec)
            plan.plan.training.CopyFrom(spec.training)
            plan_cpu, _, report = run(messages, plan)
            cpu, peak, _ = run(messages, spec)
            planned, memory = report["cpu_seconds"], int(report["peak_memory_bytes"])
            print(f"| {method} | {planned:.1f} | {cpu:.1f} | {100 * (planned / cpu - 1):+.0f} % | {memory >> 20} | "
                  f"{peak >> 20} | {100 * (memory / peak - 1):+.0f} % | {plan_cpu:.1f} s |", flush=True)
        print(f"\n{args.rows} rows; load at the end {os.getloadavg()[0]:.1f}")
    shutil.rmtree(services.directory)


if __name__ == "__main__":
    main()
