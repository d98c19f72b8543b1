#!/usr/bin/env python3
"""What the service costs beside the training: the same job through thawd and thaw-worker and by thaw-trainer alone.

  service_training.py [--bin build/bin] [--rows 640] [--epochs 1] [--pairs 3]

Full fine-tuning of MiniLM on mail with every default of a submitted job. Pairs alternate. "through" is the CPU time of
thawd, thaw-worker and the trainer that it starts, from the submit until the job has ended, with the inputs in the worker's
cache; "bare" is that of the trainer given the same assignment over its socket. Prints also how long after its submit a
job's trainer worked and its first loss was here. Needs grpcio and protobuf.
"""
import argparse
import itertools
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time

import ours

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEPS = pathlib.Path(os.environ.get("THAW_DEPS", pathlib.Path.home() / ".cache/thaw"))
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/bin")
parser.add_argument("--rows", type=int, default=640)
parser.add_argument("--epochs", type=float, default=1)
parser.add_argument("--pairs", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--model", type=pathlib.Path, default=DEPS / "assets/models/minilm")
parser.add_argument("--data", type=pathlib.Path, default=DEPS / "assets/data/mail_train.jsonl")
args = parser.parse_args()
os.environ["THAW_BIN"] = str(args.bin)
sys.path.insert(0, str(ROOT / "tests/testing"))
import thaw_services  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of(process, children):
    """CPU seconds of a process so far, or of the children that it has waited for."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    first = 13 if children else 11
    return (int(fields[first]) + int(fields[first + 1])) / TICKS


def run_bare(messages, assignment, dataset_dir):
    """CPU and wall seconds of a trainer that gets the assignment over its socket, until it has ended."""
    with ours.Trainer(messages, args.bin / "thaw-trainer", args.threads) as trainer:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        trainer.send(messages.trainer.Run(assignment=assignment, model_dir=str(args.model), work_dir=str(trainer.work()),
                                          dataset_dir=str(dataset_dir), threads=args.threads))
        for _ in trainer.frames():
            pass
        trainer.socket.close()
        trainer.process.wait()
        after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - trainer.started
    return {"who": "bare", "wall_seconds": seconds,
            "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def run_through(services, spec):
    """The same of server, worker and trainer, and when what was heard of the job; its id."""
    import grpc
    fine_tune, rpc = services.module("fine_tune_service_pb2"), services.module("fine_tune_service_pb2_grpc")
    token = (("authorization", "Bearer " + services.token_file.read_text().strip()),)
    parts = {"server": (services.server, False), "worker": (services.worker, False), "trainer": (services.worker, True)}
    with grpc.insecure_channel(services.address) as channel:
        stub = rpc.FineTuneServiceStub(channel)
        grpc.channel_ready_future(channel).result()
        before = {name: cpu_of(*part) for name, part in parts.items()}
        start = time.monotonic()
        job = stub.CreateJob(fine_tune.CreateJobRequest(spec=spec), metadata=token)
        heard = {}
        for message in stub.WatchJob(fine_tune.WatchJobRequest(id=job.id), metadata=token):
            event = message.event
            what = event.WhichOneof("kind")
            if what == "state_change":
                what = services.module("job_pb2").Job.State.Name(event.state_change.to)
            heard.setdefault(what, time.monotonic() - start)
        seconds = time.monotonic() - start
        # The attempt is taken down after the job has ended.
        time.sleep(0.5)
        after = {name: cpu_of(*part) for name, part in parts.items()}
    if "SUCCEEDED" not in heard:
        raise SystemExit(f"the job did not succeed: {heard}\n{services.logs()}")
    shares = {name: after[name] - before[name] for name in parts}
    return {"who": "through", "cpu_seconds": sum(shares.values()), "wall_seconds": seconds, **shares,
            "offered": heard["STARTING"], "trainer_works": heard["RUNNING"], "first_loss": heard["metric_points"]}, job.id


def artifact(services, kind):
    found = services.thaw(kind, "list", "--json").stdout.splitlines()[0]
    request = services.module("artifact_service_pb2").GetArtifactRequest(id=json.loads(found)["id"])
    return services.call("ArtifactService", "GetArtifact", request)


def main(services, messages):
    data = services.directory / "data.jsonl"
    with open(args.data, encoding="utf-8") as lines:
        data.write_text("".join(itertools.islice(lines, args.rows)), encoding="utf-8")
    services.thaw("model", "import", args.model, "--name", "minilm")
    services.thaw("dataset", "import", data, "--name", "mail")
    model, dataset = artifact(services, "model"), artifact(services, "dataset")
    spec = services.module("job_spec_pb2").JobSpec(base_model=model.id)
    training = spec.training
    training.dataset = dataset.id
    training.text_classification.SetInParent()
    training.batch.examples_per_step, training.max_length, training.seed = 16, 256, 42
    phase = training.phases.add(learning_rate=5e-5, epochs=args.epochs)
    phase.selector.everything = True

    first, job = run_through(services, spec)
    print(json.dumps({**first, "note": "not counted: fills the worker's cache"}), flush=True)
    request = services.module("fine_tune_service_pb2").GetJobRequest(id=job)
    assignment = messages.worker.Assignment(job=job, attempt_id="0" * 32, attempt=1, micro_step_divisor=1, model=model,
                                            spec=services.call("FineTuneService", "GetJob", request).resolved_spec,
                                            dataset=dataset)
    assignment.spec.resources.device_kind = messages.spec.Resources.CPU
    dataset_dir = services.directory / "data/artifacts/datasets" / dataset.id
    pairs = []
    for _ in range(args.pairs):
        through, _ = run_through(services, spec)
        bare = run_bare(messages, assignment, dataset_dir)
        for run in (through, bare):
            print(json.dumps({**{k: round(v, 3) if isinstance(v, float) else v for k, v in run.items()},
                              "load": round(os.getloadavg()[0], 1)}), flush=True)
        pairs.append((through, bare))
    more = [100 * (through["cpu_seconds"] / bare["cpu_seconds"] - 1) for through, bare in pairs]
    own = [100 * (through["server"] + through["worker"]) / bare["cpu_seconds"] for through, bare in pairs]
    print(f"\nCPU time through the service, more than bare: median {statistics.median(more):+.2f} % "
          f"({min(more):+.2f} to {max(more):+.2f}); of server and worker alone {statistics.median(own):.2f} % "
          f"({min(own):.2f} to {max(own):.2f}), of {len(pairs)} pairs")
    for name in ("offered", "trainer_works", "first_loss"):
        times = [through[name] for through, _ in pairs]
        print(f"submit to {name}: median {statistics.median(times) * 1000:.0f} ms, most {max(times) * 1000:.0f} ms")


with thaw_services.Services(args.bin.resolve() / "thaw-trainer", worker_flags=["--threads", str(args.threads)]) as running:
    stubs = running.directory / "stubs"
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"), f"--python_out={stubs}",
                    *map(str, (ROOT / "proto/thaw/internal").glob("*.proto"))], check=True)
    main(running, ours.Messages(stubs))
shutil.rmtree(running.directory)
