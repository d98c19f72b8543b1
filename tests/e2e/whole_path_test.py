#!/usr/bin/env python3
"""The whole path with nothing faked: real server, worker, trainer, pretrained MiniLM and real sentences.

Covers the Python example (submit, watch, fetch), prediction with what was fetched about, and a trainer killed in the
middle: its job must end with the loss series and the weights of an undisturbed one, bit for bit."""
import hashlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
import thaw_services  # noqa: E402

ASSETS = pathlib.Path(os.environ["THAW_DEPS"]) / "assets"
EXAMPLE = thaw_services.ROOT / "client/examples/python/submit.py"


def import_inputs(services, rows):
    data = services.directory / "sentences.jsonl"
    with open(ASSETS / "data/sentiment_train.jsonl", encoding="utf-8") as lines:
        data.write_text("".join(itertools.islice(lines, rows)), encoding="utf-8")
    services.thaw("model", "import", ASSETS / "models/minilm", "--name", "minilm")
    services.thaw("dataset", "import", data, "--name", "sentences")
    return [json.loads(services.thaw(kind, "list", "--json").stdout.splitlines()[0])["id"] for kind in ("model", "dataset")]


def run_example(services, model, dataset):
    """The example program, as a user would run it; gives the directory that it fetched to."""
    target = services.directory / "fetched"
    done = subprocess.run([sys.executable, EXAMPLE, services.address, services.token_file, model, dataset, target],
                          env=dict(os.environ, PYTHONPATH=str(services.directory / "stubs")), capture_output=True,
                          text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + services.logs()
    lines = done.stdout.splitlines()
    losses = [float(line.split()[-1]) for line in lines if line.startswith("step ")]
    assert len(losses) >= 3 and all(loss > 0 for loss in losses), done.stdout
    assert any("SUCCEEDED" in line for line in lines), done.stdout
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (target / name).stat().st_size > 0
    labels = json.loads((target / "config.json").read_text())["id2label"]
    assert labels == {"0": "0", "1": "1"}, labels
    result = next(line.split()[1] for line in lines if line.startswith("fetched "))
    print(f"ok example: {len(losses)} losses streamed, first {losses[0]:.4f}, last {losses[-1]:.4f}; fetched {result}")
    return result


def training_spec(model, dataset):
    phases = [{"selector": {"head_only": True}, "learning_rate": 1e-3, "epochs": 1},
              {"selector": {"last_blocks": 2}, "learning_rate": 2e-4, "learning_rate_decay": 2.6, "epochs": 2,
               "schedule": {"shape": "SLANTED_TRIANGULAR"}}]
    return {"base_model": model, "training": {"dataset": dataset, "text_classification": {}, "phases": phases,
                                              "checkpoint": {"every_steps": 3}, "seed": 7}}


def submit(services, spec):
    path = services.directory / "spec.json"
    path.write_text(json.dumps(spec))
    return json.loads(services.thaw("submit", path, "--json").stdout.splitlines()[-1])["id"]


def get(services, job):
    return services.call("FineTuneService", "GetJob", services.module("fine_tune_service_pb2").GetJobRequest(id=job))


def loss_series(services, job):
    request = services.module("fine_tune_service_pb2").QueryMetricsRequest(id=job, names=["loss"], max_points=10000)
    series = services.call("FineTuneService", "QueryMetrics", request).series
    return dict(zip(series[0].steps, (value.hex() for value in series[0].values)))


def weights_digest(services, job):
    target = services.directory / f"weights-{job}"
    services.thaw("fetch", job, "--to", target)
    return hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()


def trainer_pid(services):
    children = pathlib.Path(f"/proc/{services.worker.pid}/task")
    pids = [int(pid) for task in children.iterdir() for pid in (task / "children").read_text().split()]
    return pids[0] if pids else None


def kill_and_resume(services, model, dataset):
    done = services.module("job_pb2").Job.SUCCEEDED
    undisturbed = submit(services, training_spec(model, dataset))
    ended = thaw_services.wait_for("the undisturbed job", lambda: (job := get(services, undisturbed)).done and job, 180)
    assert ended.state == done, ended
    killed = submit(services, training_spec(model, dataset))
    thaw_services.wait_for("a step after a checkpoint", lambda: get(services, killed).progress.step >= 4, 120)
    os.kill(trainer_pid(services), signal.SIGKILL)
    ended = thaw_services.wait_for("the killed job", lambda: (job := get(services, killed)).done and job, 180)
    assert ended.state == done and ended.attempt == 2, ended
    expected, found = loss_series(services, undisturbed), loss_series(services, killed)
    shared = expected.keys() & found.keys()
    assert len(shared) >= 5 and max(shared) == max(expected), (sorted(expected), sorted(found))
    differing = [step for step in shared if expected[step] != found[step]]
    assert not differing, differing
    assert weights_digest(services, undisturbed) == weights_digest(services, killed)
    print(f"ok killed at step 4 or later and resumed: {len(shared)} losses and all weights are the same bits")


def predict(services, result):
    answer = json.loads(services.thaw("predict", "I would watch it again and again", "--model", result, "--json").stdout
                        .splitlines()[-1])
    assert answer["label"] in ("0", "1") and abs(sum(answer["scores"].values()) - 1) < 1e-5, answer
    print(f"ok predict: {answer['label']} at {answer['score']:.3f}")


def main():
    with thaw_services.Services(thaw_services.BIN / "thaw-trainer") as services:
        try:
            model, dataset = import_inputs(services, rows=160)
            predict(services, run_example(services, model, dataset))
            kill_and_resume(services, model, dataset)
        except BaseException:
            print(services.logs())
            raise


if __name__ == "__main__":
    main()
