#!/usr/bin/env python3
"""GOAT (arXiv 2305.14201) in small: arithmetic for a language model of 135 million parameters, through the service.

Three columns of one table: SmolLM2-135M-Instruct as it is, after low-rank tuning on problems whose products are worked out on
the way, and after the same tuning on bare answers. Both learn from the same number of supervised tokens. Every cell of the
table (an operator, the digits of both sides) is measured on problems that no training has seen: exact match, and digit match
(1 - edit distance / length of the longer one). docs/recipes/goat.md has the figures.

  script/recipes/goat.py [--loss_units N] [--problems N] [--arms NAME...] [--table]

Needs build/bin (cmake --preset release && cmake --build --preset release); the model comes through script/bootstrap. Jobs
run on a server of their own under build/recipes/goat. Figures go to docs/recipes/goat_results.json; what it has is not run
again, and a recipe that was interrupted goes on where it was.
"""
import argparse
import json
import re

import goat_data
from service import DEPENDENCIES, ROOT, Results, Service, bootstrap

HOME = ROOT / "build" / "recipes" / "goat"
RESULTS = ROOT / "docs" / "recipes" / "goat_results.json"

CELLS = ("add 1 1", "add 2 2", "add 3 3", "sub 1 1", "sub 2 2", "sub 3 3", "mul 1 1", "mul 2 1", "mul 2 2")
# What training draws from: sums and differences of shorter sides too, and every third row a product of two digits each.
TRAINING_CELLS = ([f"{name} {i} {j}" for name in ("add", "sub") for i in (1, 2, 3) for j in range(1, i + 1)] +
                  ["mul 1 1"] + 2 * ["mul 2 1"] + 9 * ["mul 2 2"])
TRAINING_ROWS = 40000
ARMS = {"with chains": True, "direct": False}
NUMBER = re.compile(r"-?\d[\d,]*(?: R \d+)?|undefined")


def lora_job(dataset, loss_units, seed):
    """All linear layers: the smaller the model, the more of it has to move."""
    return {"base_model": "smollm2", "training": {
        "dataset": dataset, "validation_fraction": 0, "completion": {}, "seed": seed, "max_length": 160,
        "added_part": {"lora": {"rank": 32, "alpha": 64}}, "batch": {"examples_per_step": 16, "tokens_per_micro_step": 1024},
        "phases": [{"name": "parts", "selector": {"kind": "ADDED_PARTS"}, "learning_rate": 2e-3, "loss_units": loss_units,
                    "schedule": {"shape": "COSINE", "warmup_fraction": 0.03}}]}}


def answers_job(model):
    return {"prediction": {"model": model, "dataset": "test", "max_length": 64,
                           "generate": {"max_new_tokens": 96, "stop": ["\n"]}}}


def answer_of(text):
    """What the text gives as its answer: behind the last equals sign, else the last number."""
    found = NUMBER.findall(text.rsplit("=", 1)[-1])
    if not found:
        return ""
    return (found[0] if "=" in text else found[-1]).replace(",", "")


def edit_distance(a, b):
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


def score(rows, texts):
    """{cell: {"problems", "exact_match", "digit_match"}}"""
    cells = {}
    for row, text in zip(rows, texts, strict=True):
        right, given = answer_of(row["completion"]), answer_of(text)
        digits = 1 - edit_distance(right, given) / max(len(right), len(given), 1)
        cells.setdefault(row["cell"], []).append((right == given, digits))
    return {cell: {"problems": len(scores), "exact_match": round(sum(exact for exact, _ in scores) / len(scores), 4),
                   "digit_match": round(sum(digit for _, digit in scores) / len(scores), 4)}
            for cell, scores in cells.items()}


def make_data(problems):
    data = HOME / "text"
    data.mkdir(parents=True, exist_ok=True)
    for arm, chains in ARMS.items():
        goat_data.write(data / f"{arm}.jsonl".replace(" ", "-"),
                        [row for _, row in zip(range(TRAINING_ROWS), goat_data.rows(1, TRAINING_CELLS, chains))])
    rows = goat_data.test_rows(1, CELLS, problems)
    goat_data.write(data / "test.jsonl", rows)
    return data, rows


class Recipe:
    def __init__(self, service, rows, loss_units):
        self.service, self.rows, self.loss_units = service, rows, loss_units
        self.results = Results(RESULTS)

    def measure(self, column, model):
        if self.results.has(column, "cells"):
            return
        name = f"answers, {column}"
        (_, job), = self.service.ended({name: self.service.submit(answers_job(model), name)})
        target = HOME / "answers" / column.replace(" ", "-")
        self.service.fetch(job["id"], target)
        texts = [json.loads(line)["text"] for line in (target / "predictions.jsonl").read_text().splitlines()]
        self.results.keep(column, "cells", score(self.rows, texts))

    def train(self, arms):
        jobs = {arm: self.service.submit(lora_job(arm.replace(" ", "-"), self.loss_units, 1), f"tuning, {arm}")
                for arm in arms if not self.results.has(arm, "training")}
        for arm, job in self.service.ended(jobs):
            self.results.keep(arm, "training", {"result": job["result"], **job["result_metrics"]})

    def run(self, arms):
        self.measure("before", "smollm2")
        self.train(arms)
        for arm in arms:
            self.measure(arm, self.results.of(arm, "training")["result"])


def table(results):
    columns = [column for column in ("before", *ARMS) if results.has(column, "cells")]
    lines = ["| problems | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for cell in CELLS:
        shown = [results.of(column, "cells").get(cell) for column in columns]
        lines.append(f"| {cell} | " + " | ".join(
            f"{100 * each['exact_match']:.0f} ({100 * each['digit_match']:.0f})" if each else "" for each in shown) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss_units", type=int, default=160000, metavar="N", help="supervised tokens of each tuning")
    parser.add_argument("--problems", type=int, default=100, metavar="N", help="of each cell, or as many as there are")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS), metavar="NAME")
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="jobs at a time, a thread each (default 2)")
    parser.add_argument("--table", action="store_true", help="print the table of what the results have, run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        bootstrap("--language-model")
        data, rows = make_data(arguments.problems)
        with Service(HOME, arguments.slots, 1) as service:
            service.import_model(DEPENDENCIES / "assets" / "models" / "smollm2-135m-instruct", "smollm2")
            for name in ("with-chains", "direct", "test"):
                service.import_dataset(data / f"{name}.jsonl", name, "completion")
            Recipe(service, rows, arguments.loss_units).run(arguments.arms)
    print(table(Results(RESULTS)))


if __name__ == "__main__":
    main()
