#!/usr/bin/env python3
"""Full fine-tuning of a BERT classifier with Hugging Face's Trainer as it comes: what thaw-trainer is measured against.

  hf_trainer.py --model DIR --data FILE.jsonl [--rows 320] [--batch 16] [--max_length 256] [--threads 2]

fp32, random order, padding to the longest row of a batch, fused AdamW, SDPA. Prints one JSON line: tokens (without
padding), CPU and wall seconds after the warm-up steps, peak resident memory of the process, losses.
"""
import argparse
import json
import os
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--rows", type=int, default=320)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--max_length", type=int, default=256)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--warmup", type=int, default=2, help="steps that are not counted")
args = parser.parse_args()

os.environ.update(OMP_NUM_THREADS=str(args.threads), OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false",
                  HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error")
import torch  # noqa: E402  (the environment above must be set first)
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainerCallback,  # noqa: E402
                          TrainingArguments, set_seed)

torch.set_num_threads(args.threads)
set_seed(42)
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
with open(args.data, encoding="utf-8") as lines:
    rows = [json.loads(line) for line, _ in zip(lines, range(args.rows))]
encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=args.max_length)["input_ids"]
examples = [{"input_ids": ids, "labels": int(row["label"])} for ids, row in zip(encoded, rows)]


def collate(batch):
    """Right-pads to the longest example; padding is masked out."""
    longest = max(len(example["input_ids"]) for example in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    for i, example in enumerate(batch):
        ids[i, :len(example["input_ids"])] = torch.tensor(example["input_ids"])
        mask[i, :len(example["input_ids"])] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([e["labels"] for e in batch])}


class Counter(TrainerCallback):
    """Starts counting once the warm-up steps are done."""

    def __init__(self):
        self.tokens, self.steps, self.start = 0, 0, None

    def on_step_end(self, arguments, state, control, **unused):
        if state.global_step == args.warmup:
            self.tokens, self.steps, self.start = 0, 0, (time.process_time(), time.perf_counter())


class CountingTrainer(Trainer):
    losses = []

    def training_step(self, model, inputs, *rest, **named):
        counter.tokens += int(inputs["attention_mask"].sum())
        counter.steps += 1
        loss = super().training_step(model, inputs, *rest, **named)
        self.losses.append(float(loss))
        return loss


counter = Counter()
trainer = CountingTrainer(
    model=model, train_dataset=examples, data_collator=collate, callbacks=[counter],
    args=TrainingArguments(output_dir=tempfile.mkdtemp(), use_cpu=True, per_device_train_batch_size=args.batch,
                           num_train_epochs=1, learning_rate=5e-5, save_strategy="no", report_to="none",
                           logging_strategy="no", disable_tqdm=True, seed=42, remove_unused_columns=False))
trainer.train()
cpu, wall = time.process_time() - counter.start[0], time.perf_counter() - counter.start[1]
with open("/proc/self/status", encoding="ascii") as status:
    peak_kib = int(next(line for line in status if line.startswith("VmHWM")).split()[1])
print(json.dumps({"who": "hf", "steps": counter.steps, "tokens": counter.tokens, "cpu_seconds": round(cpu, 3),
                  "wall_seconds": round(wall, 3), "peak_mib": round(peak_kib / 1024),
                  "first_loss": trainer.losses[0], "last_loss": trainer.losses[-1]}))
