#!/usr/bin/env python3
"""Embeddings and greedy text with Hugging Face transformers as people write it: what predictions are measured against.

  hf_predict.py --task embed|generate --model DIR --data FILE.jsonl [--rows 2000] [--max_length 256] [--new_tokens 64]
                [--batch 8] [--embed_batch 32] [--as_given]

embed: batches of texts of similar length, as sentence-transformers makes them, or in the order of the texts, as a plain
loop does (--as_given); padded to the longest, mean pooling over real tokens, normalised. generate: greedy with the cache, all prompts in one batch, padded on the left. fp32. Prints one
JSON line: tokens (without padding; generate: new ones), CPU and wall seconds without loading, peak resident memory.
"""
import argparse
import itertools
import json
import os
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for required in ("task", "model", "data"):
    parser.add_argument("--" + required, required=True)
parser.add_argument("--rows", type=int, default=2000)
parser.add_argument("--max_length", type=int, default=256)
parser.add_argument("--new_tokens", type=int, default=64)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--embed_batch", type=int, default=32)
parser.add_argument("--as_given", action="store_true", help="embed: batches in the order of the texts")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--save", help="write the embeddings (.npy) or texts (.json) there")
args = parser.parse_args()

os.environ.update(OMP_NUM_THREADS=str(args.threads), OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="true",
                  RAYON_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="",
                  TRANSFORMERS_VERBOSITY="error")
import numpy  # noqa: E402  (the environment above must be set first)
import torch  # noqa: E402
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer  # noqa: E402

PROMPT_CHARACTERS = 400

torch.set_num_threads(args.threads)
tokenizer = AutoTokenizer.from_pretrained(args.model)
kind = AutoModel if args.task == "embed" else AutoModelForCausalLM
model = kind.from_pretrained(args.model, dtype=torch.float32).eval()
with open(args.data, encoding="utf-8") as lines:
    texts = [json.loads(line)["text"] for line in itertools.islice(lines, args.rows)]


@torch.inference_mode()
def embed(rows):
    order = list(range(len(rows))) if args.as_given else sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    vectors, tokens = [None] * len(rows), 0
    for begin in range(0, len(order), args.embed_batch):
        indices = order[begin:begin + args.embed_batch]
        batch = tokenizer([rows[i] for i in indices], padding=True, truncation=True, max_length=args.max_length,
                          return_tensors="pt")
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).float()
        pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
        tokens += int(mask.sum())
        for i, vector in zip(indices, pooled):
            vectors[i] = vector.numpy()
    return vectors, tokens


@torch.inference_mode()
def generate(rows, new_tokens):
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(rows, padding=True, truncation=True, max_length=args.max_length, return_tensors="pt")
    out = model.generate(**batch, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
    new = out[:, batch["input_ids"].shape[1]:]
    return tokenizer.batch_decode(new, skip_special_tokens=True), new.numel()


if args.task == "generate":
    texts = [text[:PROMPT_CHARACTERS] for text in texts[:args.batch]]
embed(texts[:8]) if args.task == "embed" else generate(texts[:8], 4)
cpu, wall = time.process_time(), time.perf_counter()
result, count = embed(texts) if args.task == "embed" else generate(texts, args.new_tokens)
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
if args.save and args.task == "embed":
    numpy.save(args.save, numpy.stack(result))
elif args.save:
    with open(args.save, "w", encoding="utf-8") as out:
        json.dump(result, out)
with open("/proc/self/status", encoding="ascii") as status:
    peak = next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))
print(json.dumps({"who": "hf", "task": args.task, "tokens": count, "cpu_seconds": round(cpu, 3),
                  "wall_seconds": round(wall, 3), "peak_mib": peak}))
