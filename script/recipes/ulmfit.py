#!/usr/bin/env python3
"""ULMFiT (arXiv 1801.06146) in small, and the ablation of its tables 5 to 7, through the service.

A reduced AWD-LSTM learns to predict plain text (mails, Debian's fortunes), then the sentences of the sentiment set
without their labels, and then to classify them, from 1,000 labels. Every row of the table leaves one thing out or does it
another way; docs/recipes/ulmfit.md tells what. MiniLM goes through the classifier's rows too.

  script/recipes/ulmfit.py [--seeds N] [--quick] [--only NAME...] [--table]

Needs build/bin (cmake --preset release && cmake --build --preset release). Models and data come through script/bootstrap,
fortunes through apt-get. Jobs run on a server of their own under build/recipes/ulmfit, two at a time with a thread each.
Figures go to docs/recipes/ulmfit_results.json and, as a table, to standard output. What the file has is not run again, and a
recipe that was interrupted goes on where it was.
"""
import argparse
import json
import pathlib
import statistics
import subprocess

from service import DEPENDENCIES, ROOT, Results, Service, bootstrap

HOME = ROOT / "build" / "recipes" / "ulmfit"
RESULTS = ROOT / "docs" / "recipes" / "ulmfit_results.json"
SENTENCES = DEPENDENCIES / "assets" / "data"

VOCABULARY = 8000
LABELLED_ROWS = 1000
DECAY = 2.6
STLR = {"shape": "SLANTED_TRIANGULAR"}
# Betas of the paper's section 4; the decay of the authors' scripts.
OPTIMIZER = {"beta1": 0.7, "beta2": 0.99, "weight_decay": 1e-6}
CONFIG = {
    "model_type": "awd_lstm", "architectures": ["AwdLstmForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": 128,
    "lstm_size": 384, "num_hidden_layers": 3, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "drop_mult": 0.5,
}


def phase(name, selector, rate, epochs, discriminative=False, slanted=False, **more):
    made = {"name": name, "selector": selector, "learning_rate": rate, "epochs": epochs, **more}
    if discriminative:
        made["learning_rate_decay"] = DECAY
    if slanted:
        made["schedule"] = STLR
    return made


EVERYTHING = {"everything": True}
HEAD = {"head_only": True}


class Rates:
    """What a kind of model trains at: all alike; the head where rates fall by DECAY; the head alone; one block in turn."""

    def __init__(self, model, blocks, alike, falling, head, block, first_epochs, epochs):
        self.model, self.blocks = model, blocks
        self.alike, self.falling, self.head, self.block = alike, falling, head, block
        self.first_epochs, self.epochs = first_epochs, epochs

    @property
    def all_epochs(self):
        return self.epochs + self.first_epochs * (self.blocks + 1)


AWD_LSTM = Rates("awd-lstm", 3, 1e-3, 1e-2, 1e-3, 1e-4, 1, 6)
MINILM = Rates("minilm", 6, 1e-4, 1e-3, 5e-3, 1e-4, 0.5, 2)


def at_once(rates, discriminative=False):
    rate = rates.falling if discriminative else rates.alike
    return [phase("all", EVERYTHING, rate, rates.all_epochs, discriminative)]


def last_only(rates):
    return [phase("head", HEAD, rates.head, rates.all_epochs)]


def chain_thaw(rates):
    """The head, each group alone from the bottom up, then everything (arXiv 1708.00524); as many passes as the others."""
    groups = [("embeddings", {"everything": True, "and_not": [{"last_blocks": rates.blocks}]})]
    for i in range(rates.blocks):
        above = rates.blocks - i
        groups.append((f"block {i}", {"last_blocks": above, "and_not": [{"last_blocks": above - 1}]}))
    first = rates.first_epochs * (rates.blocks + 1) / (rates.blocks + 2)
    return ([phase("head", HEAD, rates.head, first)] + [phase(name, group, rates.block, first) for name, group in groups] +
            [phase("all", EVERYTHING, rates.block, rates.epochs)])


def freez(rates, discriminative=False, slanted=False):
    """The head, one more block after each pass, then everything (section 3.3)."""
    rate = rates.falling if discriminative else rates.alike
    how = (discriminative, slanted)
    return ([phase(f"last {i}", {"last_blocks": i}, rate, rates.first_epochs, *how) for i in range(rates.blocks + 1)] +
            [phase("all", EVERYTHING, rate, rates.epochs, *how)])


# Table 7, its rows by name.
CLASSIFIERS = {
    "full": lambda rates: at_once(rates),
    "full + discr": lambda rates: at_once(rates, True),
    "last": last_only,
    "chain-thaw": chain_thaw,
    "freez": lambda rates: freez(rates),
    "freez + discr": lambda rates: freez(rates, True),
    "freez + stlr": lambda rates: freez(rates, False, True),
    "freez + discr + stlr": lambda rates: freez(rates, True, True),
}
BEST = "freez + discr + stlr"

PRETRAINING = [phase("all", EVERYTHING, 5e-3, 2, schedule={"shape": "ONE_CYCLE"})]
TUNING_EPOCHS = 4
# Table 6: how the language model learns the sentences.
TUNINGS = {
    "full": [phase("all", EVERYTHING, 1e-3, TUNING_EPOCHS)],
    "full + discr": [phase("all", EVERYTHING, 4e-3, TUNING_EPOCHS, True)],
    "full + discr + stlr": [phase("all", EVERYTHING, 4e-3, TUNING_EPOCHS, True, True)],
}
BEST_TUNING = "full + discr + stlr"


def language_model_job(base, dataset, validation, phases, seed):
    return {"base_model": base, "training": {
        "dataset": dataset, "validation_dataset": validation, "language_modeling": {"layout": "CONTIGUOUS"},
        "phases": phases, "optimizer": OPTIMIZER, "batch": {"examples_per_step": 32, "tokens_per_micro_step": 4096},
        "max_length": 70, "seed": seed, "evaluation": {"every_epochs": 1, "keep_best": False}}}


def classifier_job(base, phases, seed, optimizer=None):
    """Without validation, so that nothing is chosen by the sentences that the result is measured on."""
    return {"base_model": base, "training": {
        "dataset": "labelled", "validation_fraction": 0, "text_classification": {}, "phases": phases,
        "optimizer": optimizer or {}, "batch": {"examples_per_step": 32, "tokens_per_micro_step": 4096}, "max_length": 96,
        "seed": seed}}


def measurement(model, *others):
    """The labels of the sentences kept back by one classifier, or by the mean of several."""
    return {"prediction": {"model": model, "dataset": "validation", "max_length": 96,
                           "classify": {"average_with": list(others)}}}


def run(*command, **more):
    subprocess.run([str(part) for part in command], check=True, **more)


def make_data():
    """Everything that is imported, under HOME/data; what is there stays."""
    data = HOME / "text"
    if (data / "backward" / "config.json").exists():
        return data
    bootstrap("--demo", "--mail")
    data.mkdir(parents=True, exist_ok=True)
    for package in ("fortunes", "fortunes-min"):
        run("apt-get", "-q", "download", package, cwd=data)
    for package in sorted(data.glob("*.deb")):
        run("dpkg-deb", "-x", package, data / "fortunes")
    here = pathlib.Path(__file__).parent
    run("python3", here / "plain_text.py", SENTENCES / "mail_train.jsonl",
        data / "fortunes" / "usr" / "share" / "games" / "fortunes", data)
    python = DEPENDENCIES / "recipes" / "bin" / "python"
    if not python.exists():
        run("/usr/bin/python3", "-m", "venv", python.parents[1])
        run(python, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", here / "requirements.txt")
    rows = (SENTENCES / "sentiment_train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "labelled.jsonl").write_text("".join(rows[:LABELLED_ROWS]), encoding="utf-8")
    for name in ("forward", "backward"):
        run(python, here / "tokenizer.py", VOCABULARY, data / name, data / "pretraining_train.jsonl")
        config = {**CONFIG, "reads_backward": name == "backward"}
        (data / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return data


class Recipe:
    """The jobs of all rows, and what came of them: {row: {"seed": figures}}."""

    def __init__(self, service, seeds, only):
        self.service, self.seeds, self.only = service, seeds, only
        self.results = Results(RESULTS)

    def wanted(self, row):
        return not self.only or any(name in row for name in self.only)

    def result(self, row, seed):
        return self.results.of(row, seed)["result"]

    def unknown(self, specs):
        """Submits those of {(row, seed): spec} that the results lack."""
        return {(row, seed): self.service.submit(spec, f"{row}, seed {seed}")
                for (row, seed), spec in specs.items() if not self.results.has(row, seed)}

    def all_of(self, specs):
        for (row, seed), job in self.service.ended(self.unknown(specs)):
            self.results.keep(row, seed, {"result": job["result"], **job["result_metrics"]})

    def classify(self, specs):
        """Trains classifiers and measures each."""
        trained, jobs = {}, self.unknown(specs)
        for key, job in self.service.ended(jobs):
            if key not in trained:
                trained[key] = job
                jobs[key] = self.service.submit({**measurement(job["result"]), "priority": 1}, "{}, seed {}, measured".format(*key))
                continue
            figures = {name: job["result_metrics"][name] for name in ("accuracy", "macro_f1", "loss")}
            training = {name: trained[key]["result_metrics"][name] for name in ("steps", "tokens", "seconds")}
            self.results.keep(*key, {"result": trained[key]["result"], **figures, **training})

    def pretrain(self, direction):
        self.all_of({(f"pretraining, {direction}", 1): language_model_job(
            direction, "pretraining", "pretraining-validation", PRETRAINING, 1)})

    def tune(self, direction, names, seed):
        base = self.result(f"pretraining, {direction}", 1)
        return {(f"lm {name}, {direction}", seed): language_model_job(
            base, "sentences", "sentences-validation", TUNINGS[name], seed) for name in names}

    def rows_of(self, seed):
        """All classifiers of a seed that read forward, by row."""
        tuned = self.result(f"lm {BEST_TUNING}, forward", seed)
        made = {("from scratch", seed): classifier_job("forward", at_once(AWD_LSTM), seed, OPTIMIZER),
                (f"from scratch, {BEST}", seed): classifier_job("forward", freez(AWD_LSTM, True, True), seed, OPTIMIZER),
                ("lm none", seed): classifier_job(self.result("pretraining, forward", 1), freez(AWD_LSTM, True, True), seed,
                                                  OPTIMIZER)}
        for name in TUNINGS:
            if name != BEST_TUNING:
                made[f"lm {name}", seed] = classifier_job(self.result(f"lm {name}, forward", seed),
                                                          freez(AWD_LSTM, True, True), seed, OPTIMIZER)
        for name, program in CLASSIFIERS.items():
            made[f"classifier {name}", seed] = classifier_job(tuned, program(AWD_LSTM), seed, OPTIMIZER)
        for name, program in CLASSIFIERS.items():
            made[f"minilm {name}", seed] = classifier_job("minilm", program(MINILM), seed)
        return {key: spec for key, spec in made.items() if self.wanted(key[0])}

    def both(self, seed):
        """A backward classifier, and the mean of what it and the forward one say."""
        self.pretrain("backward")
        self.all_of(self.tune("backward", (BEST_TUNING,), seed))
        forward, backward = f"classifier {BEST}", "classifier, backward"
        self.classify({(backward, seed): classifier_job(self.result(f"lm {BEST_TUNING}, backward", seed),
                                                        freez(AWD_LSTM, True, True), seed, OPTIMIZER)})
        self.all_of({("classifier, both", seed): measurement(self.result(forward, seed), self.result(backward, seed))})

    def run(self):
        self.pretrain("forward")
        for seed in self.seeds:
            self.all_of(self.tune("forward", TUNINGS, seed))
            self.classify(self.rows_of(seed))
            if self.wanted("classifier, both"):
                self.both(seed)


def table(results):
    """Errors of validation in percent, mean and spread of the seeds, in the order of the paper's tables."""
    order = (["from scratch", f"from scratch, {BEST}", "lm none"] + [f"lm {name}" for name in TUNINGS if name != BEST_TUNING] +
             [f"classifier {name}" for name in CLASSIFIERS] + ["classifier, backward", "classifier, both"] +
             [f"minilm {name}" for name in CLASSIFIERS])
    lines = ["| row | error, % | seeds |", "|---|---|---|"]
    for row in order:
        errors = [100 * (1 - figures["accuracy"]) for figures in results.rows.get(row, {}).values()]
        if errors:
            spread = f" ± {statistics.stdev(errors):.1f}" if len(errors) > 1 else ""
            lines.append(f"| {row} | {statistics.mean(errors):.1f}{spread} | {len(errors)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="so many runs of every row (default 3)")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only classifiers whose row's name contains one of these")
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="jobs at a time, a thread each (default 2)")
    parser.add_argument("--table", action="store_true", help="print the table of what the results have, run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        data = make_data()
        with Service(HOME, arguments.slots, 1) as service:
            for name in ("forward", "backward"):
                service.import_model(data / name, name)
            service.import_model(DEPENDENCIES / "assets" / "models" / "minilm", "minilm")
            for name, path, task in (
                    ("pretraining", data / "pretraining_train.jsonl", "lm"),
                    ("pretraining-validation", data / "pretraining_validation.jsonl", "lm"),
                    ("sentences", SENTENCES / "sentiment_train.jsonl", "lm"),
                    ("sentences-validation", SENTENCES / "sentiment_validation.jsonl", "lm"),
                    ("labelled", data / "labelled.jsonl", "classification"),
                    ("validation", SENTENCES / "sentiment_validation.jsonl", "classification")):
                service.import_dataset(path, name, task)
            seeds = range(1, (1 if arguments.quick else arguments.seeds) + 1)
            Recipe(service, seeds, arguments.only).run()
    print(table(Results(RESULTS)))


if __name__ == "__main__":
    main()
