#!/usr/bin/env python3
"""AWD-LSTM in both directions: fastai 2 saves and we answer, we train and fastai loads the tensors strictly and answers,
with equal numbers.

  fastai_test.py [--only REGEX] [--seed N] [--keep DIR]

Runs with a Python that has torch, safetensors and fastai 2 (-DTHAW_FASTAI_PYTHON); the environment names THAW_BIN and
THAW_DEPS. Prints the largest differences.
"""
import json
import random
import re
import sys

import torch
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config, awd_lstm_lm_config
from fastai.text.models.core import get_language_model, get_text_classifier
from safetensors.torch import load_file, save_file

import comparison
from id_tokenizer import write_id_tokenizer

torch.set_num_threads(1)

ROWS = 60
PADDING = 1
LABELS = ["no", "yes", "ä"]
# Layers, width of the embeddings, of the LSTMs, vocabulary, what is changed in our config.json.
SHAPES = {
    "three": (3, 20, 36, 151, {}),
    "one": (1, 12, 12, 60, {}),
    "two-backward": (2, 16, 9, 83, {"reads_backward": True}),
    "four-short": (4, 8, 14, 70, {"bptt": 10, "head_hidden_size": 17}),
}


def our_config(shape, head):
    layers, width, lstm, vocabulary, options = shape
    config = {"model_type": "awd_lstm", "architectures": [f"AwdLstmFor{head}"], "vocab_size": vocabulary, "hidden_size": width,
              "lstm_size": lstm, "num_hidden_layers": layers, "pad_token_id": PADDING, **options}
    if head == "SequenceClassification":
        config.update(problem_type="single_label_classification", id2label=dict(enumerate(LABELS)),
                      label2id={label: i for i, label in enumerate(LABELS)})
    return config


def fastai_model(shape, head):
    layers, width, lstm, vocabulary, options = shape
    sizes = {"emb_sz": width, "n_hid": lstm, "n_layers": layers}
    if head == "CausalLM":
        return get_language_model(AWD_LSTM, vocabulary, config={**awd_lstm_lm_config, **sizes}).eval()
    hidden = {"lin_ftrs": [options["head_hidden_size"]]} if "head_hidden_size" in options else {}
    return get_text_classifier(AWD_LSTM, vocabulary, len(LABELS), seq_len=options.get("bptt", 72), pad_idx=PADDING,
                               config={**awd_lstm_clas_config, **sizes}, **hidden).eval()


def write(directory, shape, head, model=None):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(our_config(shape, head)), encoding="utf-8")
    write_id_tokenizer(directory, shape[3])
    if model is not None:
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, directory / "model.safetensors")


def random_rows(shape, chance):
    rows = []
    for _ in range(ROWS):
        ids = [chance.randrange(PADDING + 1, shape[3]) for _ in range(chance.choice([2, 3, 9, 30, 72, 73, 150]))]
        rows.append(comparison.Row(" ".join(f"w{i}" for i in ids), ids))
    return rows


def theirs(model, shape, rows, ask):
    said = []
    with torch.no_grad():
        for row in rows:
            ids = row.ids[::-1] if shape[4].get("reads_backward") else row.ids
            model.reset()
            if ask == "embed":
                said.append(model[0](torch.tensor([ids]))[0].mean(0))
                continue
            logits = model(torch.tensor([ids]))[0][0]
            said.append(logits if ask == "classify" else comparison.token_log_probabilities(logits[:-1], ids[1:]))
    return said


def compare(trainer, directory, shape, head, model, chance):
    rows = random_rows(shape, chance)
    # What reads backward scores nothing, but its states tell as much.
    ask = "classify" if head != "CausalLM" else "embed" if shape[4].get("reads_backward") else "score"
    return comparison.difference(theirs(model, shape, rows, ask), comparison.ours(trainer, directory, rows, ask))


def from_theirs(trainer, directory, shape, head, seed):
    torch.manual_seed(seed)
    model = fastai_model(shape, head)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape) * 0.2 if "running_var" in name else torch.randn(tensor.shape) * 0.1)
        # These are one tensor in fastai, and stay so.
        model.reset()
    write(directory, shape, head, model)
    return compare(trainer, directory, shape, head, model, random.Random(seed))


def from_ours(trainer, directory, shape, head, seed):
    chance = random.Random(seed)
    write(directory / "base", shape, "CausalLM")
    lines = [{"text": row.text, "label": chance.choice(LABELS)} for row in random_rows(shape, chance)]
    if head == "CausalLM":
        texts = [{"text": line["text"]} for line in lines]
        result = trainer.train(directory / "base", texts, "language_modeling", max_length=90)
    else:
        result = trainer.train(directory / "base", lines, "text_classification", max_length=160)
    model = fastai_model(shape, head)
    tensors = load_file(result / "model.safetensors")
    model.load_state_dict(tensors, strict=True)
    labels = json.loads((result / "config.json").read_text(encoding="utf-8")).get("id2label")
    if head != "CausalLM":
        assert sorted(labels.values()) == sorted(LABELS), labels
        tracked = tensors["1.layers.0.0.num_batches_tracked"].item()
        assert tracked >= 6, f"{tracked} batches, trained on 6 steps"
    return compare(trainer, result, shape, head, model.eval(), chance)


def run(args, root, trainer, report):
    for direction, check in (("theirs", from_theirs), ("ours", from_ours)):
        for name, shape in SHAPES.items():
            for head in ("CausalLM", "SequenceClassification"):
                case = f"{direction}/{name}-{head}"
                if re.search(args.only, case):
                    report.run(direction, "awd_lstm", case,
                               lambda: check(trainer, root / case, shape, head, args.seed + report.cases))


if __name__ == "__main__":
    sys.exit(comparison.run_cases(__doc__, f"torch {torch.__version__}", run))
