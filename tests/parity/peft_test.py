#!/usr/bin/env python3
"""PEFT's adapters both ways: we train one on what transformers saved, PEFT loads it on the same base and answers, saves it
again, and we answer from that, with equal numbers.

  peft_test.py [--only REGEX] [--seed N] [--keep DIR]

Runs with a Python that has torch, transformers and peft (-DTHAW_PEFT_PYTHON); the environment names THAW_BIN, where
thaw-trainer lies, and THAW_DEPS. Prints the largest differences of each kind of part.
"""
import os
import random
import re
import sys

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
import peft  # noqa: E402
import torch  # noqa: E402
import transformers as tf  # noqa: E402

tf.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

import comparison  # noqa: E402
import from_thaw  # noqa: E402

PARTS = {
    "lora": {"lora": {"rank": 4, "alpha": 8}},
    "dora": {"lora": {"rank": 4, "alpha": 8, "dora": True}},
    "ia3": {"ia3": {}},
    "prompt": {"prompt_tuning": {"virtual_tokens": 5}},
    "prefix": {"prefix_tuning": {"virtual_tokens": 5}},
}
BASES = ("bert-label", "roberta-label", "distilbert-label", "gpt2-text", "bloom-text", "llama-text", "mistral-text", "qwen2-text",
         "qwen3-text", "t5-target", "t5-v1.1-target")
PHASES = [{"selector": {"kind": "ADDED_PARTS"}, "learning_rate": 1e-2, "steps": 6}]
# transformers has no keys that could be put before DistilBERT's own.
WITHOUT = {("distilbert-label", "prefix")}
ROWS = 50


def check(trainer, case, part, root):
    chance = random.Random(case.seed)
    source, again = root / "source", root / "again"
    tokenizer = from_thaw.write_source(case, source, chance)
    training = case.training
    kind = next(name for name, known in from_thaw.TRAININGS.items() if known is training)
    result = trainer.train(source, list(from_thaw.training_rows(kind, chance)), training.task, added_part=part, output="ADAPTER",
                           phases=PHASES, **{training.task: training.fields})
    rows = []
    for _ in range(ROWS):
        row = comparison.Row(from_thaw.text(chance, 2), [])
        encoded = tokenizer(row.text)
        row.ids, row.types = encoded.input_ids, encoded.get("token_type_ids", [])
        if kind == "target":
            row.target = from_thaw.text(chance)
            row.target_ids = tokenizer(row.target, add_special_tokens=False).input_ids
        rows.append(row)
    options = {"num_labels": len(from_thaw.LABELS)} if training.ask == "classify" else {}
    base = training.loader.from_pretrained(source, **options)
    model = peft.PeftModel.from_pretrained(base, result).eval()
    model.save_pretrained(again)
    for adapter in (result, again):
        trainer.bases[str(adapter)] = source
    # PEFT's own leaves config.json, with the names of the labels, to the base.
    (again / "config.json").write_bytes((result / "config.json").read_bytes())
    said = comparison.theirs(model, rows, training.ask)
    found = comparison.difference(said, comparison.ours(trainer, result, rows, training.ask))
    found.add(comparison.difference(said, comparison.ours(trainer, again, rows, training.ask)))
    return found


def run(args, root, trainer, report):
    cases = {case.name: case for case in from_thaw.all_cases(random.Random(args.seed))}
    for name in BASES:
        for kind, part in PARTS.items():
            full = f"{kind}-{name}"
            if (name, kind) in WITHOUT or not re.search(args.only, full):
                continue
            report.run("ours", kind, full, lambda: check(trainer, cases[name], part, root / full))


if __name__ == "__main__":
    versions = f"torch {torch.__version__}, transformers {tf.__version__}, peft {peft.__version__}"
    sys.exit(comparison.run_cases(__doc__, versions, run))
