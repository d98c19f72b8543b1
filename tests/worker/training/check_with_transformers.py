"""Loads a result as transformers users do and compares its logits with those of our own prediction.

usage: check_with_transformers.py RESULT_DIR ROWS.jsonl PREDICTIONS.jsonl [MAX_LENGTH]

Needs torch and transformers. Prints the largest difference and fails if it is above 1e-5, or if a label differs.
"""
import json
import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

LIMIT = 1e-5


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def main():
    result, rows_path, predictions_path = sys.argv[1:4]
    max_length = int(sys.argv[4]) if len(sys.argv) > 4 else 256
    model, loading = AutoModelForSequenceClassification.from_pretrained(result, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[what]:
            sys.exit(f"{what}: {loading[what]}")
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(result)
    rows, predictions = read_lines(rows_path), read_lines(predictions_path)
    if len(rows) != len(predictions):
        sys.exit(f"{len(rows)} rows, but {len(predictions)} predictions")
    worst = 0.0
    for row, prediction in zip(rows, predictions):
        inputs = tokenizer(row["text"], truncation=True, max_length=max_length, padding=False, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        label = model.config.id2label[int(logits.argmax())]
        worst = max(worst, (logits - torch.tensor(prediction["logits"])).abs().max().item())
        if label != prediction["label"] and worst > LIMIT:
            sys.exit(f"row {prediction['row']}: label {label}, ours {prediction['label']}")
    print(f"[ FIGURE   ] {len(rows)} rows through transformers: logits differ by at most {worst:.1e}")
    if not worst <= LIMIT:
        sys.exit(f"more than {LIMIT}")


if __name__ == "__main__":
    main()
