#!/usr/bin/env python3
"""What a training leaves, with nothing faked: a result with all weights, one that holds what differs from MiniLM, and a
run that is made again. Both results must be the same model, bit for bit."""
import hashlib
import json

import whole_path_test as whole_path
from whole_path_test import thaw_services


def spec(model, dataset, output, phases):
    return {"base_model": model, "training": {"dataset": dataset, "text_classification": {}, "phases": phases,
                                              "seed": 7, "output": output}}


def train(services, job_spec):
    job = whole_path.submit(services, job_spec)
    ended = thaw_services.wait_for("the job", lambda: (found := whole_path.get(services, job)).done and found, 180)
    assert ended.result, ended
    return job, ended.result


def fetch(services, job, *options):
    target = services.directory / f"fetched-{job}-{len(options)}"
    services.thaw("fetch", job, "--to", target, *options)
    return target


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def answer(services, model):
    return services.thaw("predict", "I would watch it again", "--model", model, "--json").stdout.splitlines()[-1]


def main():
    trainer = thaw_services.BIN / "thaw-trainer"
    with thaw_services.Services(trainer) as services:
        model, dataset = whole_path.import_inputs(services, 120)
        head = [{"name": "head", "selector": {"head_only": True}, "learning_rate": 1e-3, "epochs": 1}]
        full_job, full = train(services, spec(model, dataset, "FULL", head))
        delta_job, delta = train(services, spec(model, dataset, "DELTA", head))
        stored, whole = fetch(services, delta_job), fetch(services, delta_job, "--as", "full")
        expected = fetch(services, full_job)
        size = (stored / "delta.safetensors").stat().st_size
        assert size * 20 < (expected / "model.safetensors").stat().st_size, size
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            assert digest(whole / name) == digest(expected / name), name
        assert not (whole / "delta.json").exists() and not (whole / ".parts").exists()
        assert answer(services, delta) == answer(services, full)
        print(f"ok delta: {size} bytes stand for {(expected / 'model.safetensors').stat().st_size}, the same bits")

        # A head on features, trained to its optimum: a delta by itself.
        pooled_job, pooled = train(services, {"base_model": model, "training": {
            "dataset": dataset, "text_classification": {}, "pooled_head": {"pooling": "MEAN", "export_features": True},
            "phases": [{"name": "head", "selector": {"head_only": True}, "convergence": {}}]}})
        stored, whole = fetch(services, pooled_job), fetch(services, pooled_job, "--as", "full")
        assert (stored / "delta.safetensors").stat().st_size < 10_000
        assert json.loads((whole / "config.json").read_text())["thaw_pooled_head"]["blocks"] == 6
        assert (whole / "model.safetensors").stat().st_size > 80_000_000
        assert (stored / "features.npy").read_bytes()[:8] == b"\x93NUMPY\x01\x00"
        assert '"label"' in answer(services, pooled)
        _, again = train(services, spec(pooled, dataset, "DELTA", head))
        assert answer(services, again) != answer(services, pooled)
        print("ok pooled head: converged, a delta, answers, is gone on from")

        # It can be gone on from, and its base stays for as long as it does.
        top = [{"selector": {"last_blocks": 1}, "learning_rate": 1e-4, "steps": 2}]
        again_full, _ = train(services, spec(full, dataset, "FULL", top))
        again_delta, _ = train(services, spec(delta, dataset, "DELTA", top))
        assert digest(fetch(services, again_full) / "model.safetensors") == \
            digest(fetch(services, again_delta, "--as", "full") / "model.safetensors")
        refused = services.thaw("model", "delete", model, check=False)
        assert refused.returncode != 0 and "builds on" in refused.stderr, refused
        print("ok chains: a training on a delta gives the bits of one on all weights; its base cannot be deleted")

        lora = {"base_model": model, "training": {"dataset": dataset, "text_classification": {}, "seed": 7, "preset":
                                                  {"name": "LORA", "epochs": 2}}}
        adapter_job, adapter = train(services, lora)
        files = fetch(services, adapter_job)
        config = json.loads((files / "adapter_config.json").read_text())
        assert config["modules_to_save"] == ["classifier"], config
        assert config["peft_type"] == "LORA" and (files / "adapter_model.safetensors").stat().st_size < 4 << 20, config
        said = answer(services, adapter)
        merged_job, merged = train(services, {**lora, "training": {**lora["training"], "output": "MERGED"}})
        difference = max(abs(a - b) for a, b in zip(json.loads(said)["logits"], json.loads(answer(services, merged))["logits"]))
        assert difference < 1e-4, difference
        services.thaw("model", "import", files, "--name", "mine", "--base", "minilm")
        assert answer(services, "mine") == said
        more = {"base_model": adapter, "training": {"dataset": dataset, "text_classification": {}, "phases": [
            {"selector": {"kind": "ADDED_PARTS"}, "learning_rate": 1e-4, "steps": 2}]}}
        _, further = train(services, more)
        assert answer(services, further) != said
        print(f"ok adapter: predicts as trained, merged within {difference:.1e}, imported the same, trained on")

        compared = json.loads(services.thaw("reproduce", delta_job, "--json").stdout.splitlines()[-1])
        assert compared["same"] and compared["compared"]["loss of every step, evaluations"], compared
        assert compared["compared"]["file delta.safetensors"], compared
        print("ok reproduce: losses, evaluations and every file are the same")

        # Two phases without an end in sight, steered through and stopped: made again, the same bits.
        endless = [{"selector": selector, "learning_rate": 1e-3, "steps": 1000000}
                   for selector in ({"head_only": True}, {"last_blocks": 1})]
        job = whole_path.submit(services, spec(model, dataset, "DELTA", endless))
        thaw_services.wait_for("a step", lambda: whole_path.get(services, job).progress.step > 1, 60)
        actions = (("scale_rate", "0.5"), ("next_phase",), ("extend_epochs", "2"), ("checkpoint",), ("stop",))
        for index, action in enumerate(actions):
            services.thaw("steer", job, *action)
            thaw_services.wait_for(action[0], lambda: whole_path.get(services, job).steerings[index].applied, 60)
        thaw_services.wait_for("the job", lambda: whole_path.get(services, job).done, 60)
        assert "the end with the best kept" in services.thaw("events", job).stdout
        compared = json.loads(services.thaw("reproduce", job, "--json").stdout.splitlines()[-1])
        assert compared["same"] and compared["compared"]["steering and ends by the clock"], compared
        print(f"ok steering: stopped after step {whole_path.get(services, job).progress.step}, made again the same")

        path = services.directory / "planned.json"
        path.write_text(json.dumps({"base_model": "minilm", "training": {**lora["training"], "dataset": "sentences"}}))
        plan = json.loads(services.thaw("plan", path, "--json").stdout.splitlines()[-1])
        metrics = whole_path.get(services, adapter_job).result_metrics
        assert int(plan["steps"]) == metrics["steps"] and plan["cpu_seconds"] > 0, (plan, metrics)
        assert int(plan["phases"][0]["trainable_parameters"]) == metrics["trainable_parameters"], (plan, metrics)
        assert int(plan["peak_memory_bytes"]) > 1 << 20, plan
        newest = json.loads(services.thaw("list", "--limit", 1, "--json").stdout.splitlines()[0])["id"]
        refused = services.thaw("predict", "--model", newest, "text", check=False)
        assert refused.returncode != 0 and "no model" in refused.stderr, refused
        print("ok plan: the steps and trainable numbers of the training; it is no model")


if __name__ == "__main__":
    main()
