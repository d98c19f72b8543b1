"""The peers' predictions: transformers' generate(), and vectors from padded batches of like length."""
import json

import cases
import torch
from encode import encode
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class Prediction:
    def __init__(self, case, args):
        self.case, self.inputs = case, cases.Inputs(args.inputs)
        directory = self.inputs.model(case.model)
        kind = AutoModel if case.task == "embed" else AutoModelForCausalLM
        dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
        self.model = kind.from_pretrained(directory, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.spellings = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))]) if case.task == "generate" else []
        if args.compile:
            self.model.forward = torch.compile(self.model.forward, dynamic=True)

    def rows(self, which):
        return read(self.inputs.data(self.case, which))

    @torch.inference_mode()
    def embed(self, texts):
        """As sentence-transformers does it: longest first, a batch padded to its longest, mean over real tokens, length 1."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors, tokens = [None] * len(texts), 0
        for begin in range(0, len(order), self.case.batch):
            numbers = order[begin:begin + self.case.batch]
            batch = self.tokenizer([texts[i] for i in numbers], padding=True, truncation=True, max_length=self.case.max_length,
                                   return_tensors="pt")
            states = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1).float()
            pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
            tokens += int(mask.sum())
            for i, vector in zip(numbers, pooled):
                vectors[i] = vector
        return torch.stack(vectors), tokens

    @torch.inference_mode()
    def generate(self, prompts, new_tokens):
        self.tokenizer.padding_side = self.tokenizer.truncation_side = "left"
        batch = self.tokenizer(prompts, padding=True, truncation=True, max_length=self.case.max_length, return_tensors="pt")
        out = self.model.generate(**batch, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
        return out[:, batch["input_ids"].shape[1]:]

    def window(self):
        if self.case.task == "embed":
            return self.embed([row["text"] for row in self.rows_read])[1]
        return self.generate([row["prompt"] for row in self.rows_read], self.case.new_tokens).numel()

    def prepare(self, precision):
        self.rows_read = self.rows(precision)
        if self.case.task == "embed":
            self.embed([row["text"] for row in self.rows_read[:64]])
        else:
            self.generate([row["prompt"] for row in self.rows_read], 4)

    @torch.inference_mode()
    def gate(self, answers):
        """How far `answers`, a file of ours, are from the peer's own; see cases.TOLERANCE."""
        rows = self.rows("gate")
        examples = encode(self.case, rows, self.tokenizer, self.case.max_length)
        tokens = sum(len(example["input_ids"]) for example in examples)
        if self.case.task == "embed":
            own = self.embed([row["text"] for row in rows])[0]
            return {"difference": float((load_file(answers)["embeddings"] - own).abs().max()), "tokens": tokens}
        own = self.tokenizer.batch_decode(self.generate([row["prompt"] for row in rows], cases.GATE_STEPS))
        worst = max(0 if answer["text"] == text else self.regret(example["input_ids"], answer["text"])
                    for example, answer, text in zip(examples, read(answers), own))
        return {"difference": worst, "tokens": tokens}

    def regret(self, ids, text):
        """By the peer's model: how much less probable (in nats, on average) each token of `text` is than the one it likes best.

        Of several tokens that the text may go on with, such as one line break or two, it was the most probable."""
        lost, count = 0.0, 0
        while text:
            likely = self.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
            best, order = float(likely.max()), likely.argsort(descending=True).tolist()
            token = next(i for i in order if self.spellings[i] and text.startswith(self.spellings[i]))
            lost, count = lost + best - float(likely[token]), count + 1
            ids, text = ids + [token], text[len(self.spellings[token]):]
        return lost / max(count, 1)


def serve(case, args, line):
    prediction = Prediction(case, args)
    while True:
        command = line.command()
        if command["do"] == "gate":
            line.answer(**prediction.gate(command["answers"]))
        elif command["do"] == "prepare":
            prediction.prepare(args.precision)
            line.answer()
        else:
            line.answer(tokens=prediction.window(), steps=1)
