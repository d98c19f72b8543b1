#!/usr/bin/env python3
"""Makes what both sides of the benchmark read: model directories, adapters, rows.

  inputs.py --out DIR --assets DIR [CASE…]      (assets: models/ and data/ of script/bootstrap)

Models with random weights have a fixed seed; classifiers get their head here, so that both sides begin with the same one.
Beside each model with dropout lies one without, for the gate. Rows of a window are those of a far larger population:
for P1 every n-th by length, in drawn order; for P2, whose batches hold rows of like length, every n-th such batch.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
import torch  # noqa: E402  (the environment above must be set first)
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BertConfig,  # noqa: E402
                          BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, set_seed)

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench")]
import cases  # noqa: E402
from encode import encode, loss_units  # noqa: E402

# Batches of like length that a window's are taken from, evenly spaced.
POPULATION_BATCHES = 50
PROMPT_CHARACTERS = 400
# Sizes of problems in about the paper's proportions (arXiv 2305.14201, section 3.3).
GOAT_CELLS = ("add 3 3", "add 8 8", "add 15 15", "sub 3 3", "sub 8 8", "sub 15 15", "mul 4 1", "mul 12 1", "mul 2 2",
              "mul 4 4", "mul 8 4", "mul 6 6", "div 4 1", "div 12 1", "div 6 2", "div 10 3", "div 12 6")
LABELS = {"id2label": {0: "0", 1: "1"}, "label2id": {"0": 0, "1": 1}}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def link(source, target):
    """The same file under another name; a copy where the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class Models:
    """Directories of models, made when they are asked for."""

    def __init__(self, inputs, assets):
        self.inputs, self.assets = inputs, pathlib.Path(assets) / "models"

    def need(self, name):
        target = self.inputs.model(name)
        if not target.exists():
            made = target.with_name(name + ".part")
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(parents=True)
            set_seed(cases.SEED)
            getattr(self, "make_" + name.replace("-", "_"))(made)
            made.rename(target)
        without = self.inputs.model(name, gate=True)
        if not without.exists():
            self.drop_dropout(target, without)
        return target

    def make_minilm(self, target):
        self.copy_asset("minilm", target)

    def make_smollm2(self, target):
        self.copy_asset("smollm2-135m-instruct", target)

    def make_gpt2_124m(self, target):
        # SmolLM2's tokens all have a row in GPT-2's table.
        GPT2LMHeadModel(GPT2Config(bos_token_id=1, eos_token_id=2)).save_pretrained(target)
        self.copy_tokenizer("smollm2-135m-instruct", target)

    def make_bert_base(self, target):
        BertForSequenceClassification(BertConfig(num_labels=2, **LABELS)).save_pretrained(target)
        self.copy_tokenizer("minilm", target)

    def make_minilm_classifier(self, target):
        AutoModelForSequenceClassification.from_pretrained(self.assets / "minilm", num_labels=2, **LABELS).save_pretrained(target)
        self.copy_tokenizer("minilm", target)

    def copy_asset(self, name, target):
        for file in (self.assets / name).iterdir():
            if not file.name.startswith("."):
                link(file, target / file.name)

    def copy_tokenizer(self, name, target):
        for file in TOKENIZER_FILES:
            if (self.assets / name / file).exists():
                shutil.copyfile(self.assets / name / file, target / file)

    @staticmethod
    def drop_dropout(model, target):
        target.mkdir()
        for file in model.iterdir():
            if file.name != "config.json":
                link(file, target / file.name)
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        config.update({key: 0.0 for key in config if key.endswith(("dropout_prob", "_pdrop", "dropout"))})
        (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def need_adapter(case, inputs):
    target = inputs.adapter(case)
    if target.exists():
        return
    set_seed(cases.SEED)
    base = AutoModelForCausalLM.from_pretrained(inputs.model(case.model), dtype=torch.float32)
    part = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    part.save_pretrained(target.with_name(target.name + ".part"))
    target.with_name(target.name + ".part").rename(target)


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def source_rows(case, assets, scratch):
    data = pathlib.Path(assets) / "data"
    if case.data == "goat":
        made = scratch / "goat.jsonl"
        subprocess.run([sys.executable, ROOT / "script/recipes/goat_data.py", made, "--rows", "4000", "--seed", "7", "--cells",
                        *GOAT_CELLS], check=True, stdout=subprocess.DEVNULL)
        return [{key: row[key] for key in ("prompt", "completion")} for row in read(made)]
    if case.data == "prompts":
        return [{"prompt": row["text"][:PROMPT_CHARACTERS]} for row in read(data / "mail_train.jsonl")]
    name = "sentiment_train.jsonl" if case.data == "sentiment" else "mail_train.jsonl"
    keys = ("text", "label") if case.task == "classification" else ("text",)
    return [{key: row[key] for key in keys} for row in read(data / name)]


def evenly(items, count):
    """`count` of the items, evenly spaced, from the middle of each stretch."""
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


def window_rows(case, precision, rows, lengths):
    """The rows of a window; `lengths` of all rows."""
    count = case.rows[precision]
    if case.task in ("embed", "generate") or case.data == "long_mail":
        return rows[:count]
    population = sorted(range(min(len(rows), POPULATION_BATCHES * case.batch)), key=lambda i: lengths[i])
    if precision == "fp32":
        picked = evenly(population, count)
        random.Random(cases.SEED).shuffle(picked)
    else:
        batches = [population[i:i + case.batch] for i in range(0, len(population), case.batch)]
        picked = [i for batch in evenly(batches, count // case.batch) for i in batch]
    return [rows[i] for i in picked]


def gate_rows(case, rows):
    """Rows of the gate, of both labels in turn where there are labels."""
    count = case.gate_passes()[0]
    if not case.trains:
        return rows[:case.batch if case.task == "generate" else 32]
    if case.task != "classification":
        return rows[:count]
    by_label = [[row for row in rows if row["label"] == label] for label in (0, 1)]
    return [by_label[i % 2][i // 2] for i in range(count)]


def shares(lengths, batch):
    """What share of a batch of these rows is no padding: in drawn batches and in the given order."""
    rng = random.Random(cases.SEED)
    drawn = [rng.sample(lengths, batch) for _ in range(300)]
    given = [lengths[i:i + batch] for i in range(0, len(lengths), batch)]
    return {name: round(sum(map(sum, batches)) / sum(len(batch) * max(batch) for batch in batches), 3)
            for name, batches in (("drawn", drawn), ("in_order", given))}


def write(path, case, rows, tokenizer, max_length):
    examples = encode(case, rows, tokenizer, max_length)
    lengths = [len(example["input_ids"]) for example in examples]
    facts = {"rows": len(rows), "tokens": sum(lengths), "loss_units": sum(loss_units(case, examples)), "lengths": lengths}
    if len(lengths) >= case.batch:
        facts["share_of_real_tokens"] = shares(lengths, case.batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    path.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


def make(case, inputs, models, assets):
    directory = models.need(case.model)
    if case.adapter:
        need_adapter(case, inputs)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = source_rows(case, assets, inputs.directory)
    if case.data == "long_mail":
        lengths = map(len, tokenizer([row["text"] for row in rows], truncation=True, max_length=case.max_length)["input_ids"])
        rows = [row for row, length in zip(rows, lengths) if length == case.max_length]
    considered = rows[:max(POPULATION_BATCHES * case.batch, max(case.rows.values()))]
    lengths = [len(example["input_ids"]) for example in encode(case, considered, tokenizer, case.max_length)]
    for precision in cases.PRECISIONS:
        write(inputs.data(case, precision), case, window_rows(case, precision, considered, lengths), tokenizer, case.max_length)
    write(inputs.data(case, "gate"), case, gate_rows(case, rows), tokenizer, case.gate_length if case.trains else case.max_length)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--assets", required=True)
    parser.add_argument("names", nargs="*", metavar="CASE")
    arguments = parser.parse_args()
    inputs = cases.Inputs(arguments.out)
    inputs.directory.mkdir(parents=True, exist_ok=True)
    models = Models(inputs, arguments.assets)
    for case in cases.chosen(arguments.names):
        make(case, inputs, models, arguments.assets)
        print(f"inputs of {case.name}: {inputs.facts(case, 'fp32')['tokens']} tokens a window", flush=True)


if __name__ == "__main__":
    main()
