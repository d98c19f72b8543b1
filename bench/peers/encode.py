"""Rows of a case as token ids, as our own side makes them, and batches as the peers' collators do."""
import torch


def encode(case, rows, tokenizer, max_length):
    """For each row {"input_ids", "labels"}: labels are the class, or ids with -100 where nothing is learnt."""
    if case.task == "completion":
        prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
        completions = tokenizer([row["completion"] for row in rows])["input_ids"]
        examples = []
        for prompt, completion in zip(prompts, completions):
            ids = (prompt + completion + [tokenizer.eos_token_id])[:max_length]
            examples.append({"input_ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt):]})
        return examples
    texts = [row["prompt" if case.task == "generate" else "text"] for row in rows]
    ids = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    if case.task == "language_modeling":
        end = tokenizer.eos_token_id
        ids = [row if len(row) == max_length else row + [end] for row in ids]
        return [{"input_ids": row, "labels": list(row)} for row in ids]
    return [{"input_ids": row, "labels": int(source.get("label", 0))} for row, source in zip(ids, rows)]


def pad(examples, padding_id):
    """Right-pads to the longest, as DataCollatorWithPadding and DataCollatorForSeq2Seq do."""
    longest = max(len(example["input_ids"]) for example in examples)

    def fill(key, value):
        return torch.tensor([example[key] + [value] * (longest - len(example[key])) for example in examples])

    labels = (fill("labels", -100) if isinstance(examples[0]["labels"], list)
              else torch.tensor([example["labels"] for example in examples]))
    mask = torch.tensor([[1] * len(example["input_ids"]) + [0] * (longest - len(example["input_ids"])) for example in examples])
    return {"input_ids": fill("input_ids", padding_id), "attention_mask": mask, "labels": labels}


def loss_units(case, examples):
    """Supervised tokens of each row, or 1."""
    if isinstance(examples[0]["labels"], list):
        return [sum(label != -100 for label in example["labels"][1:]) for example in examples]
    return [1] * len(examples)
