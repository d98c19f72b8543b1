"""What transformers and we say of the same rows, how far that is apart, and the programs that compare it."""
import argparse
import collections
import dataclasses
import pathlib
import random
import tempfile
import time

import torch
from safetensors.torch import load_file

from trainer_process import TrainerProcess

LIMIT = 1e-4  # relative, of what others saved
LIMIT_OF_RESULTS = 1e-5  # absolute, of what we saved
LIMIT_OF_LARGE_RESULTS = 1e-6  # or relative, where the numbers are large


@dataclasses.dataclass
class Row:
    """A text and the ids that transformers is given for it."""
    text: str
    ids: list
    types: list = dataclasses.field(default_factory=list)  # of the ids, where the tokenizer tells them
    pair: str = ""  # the second text of a classification
    target: str = ""  # what an encoder-decoder scores
    target_ids: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Difference:
    rows: int = 0
    absolute: float = 0.0  # largest
    relative: float = 0.0  # to the largest number of transformers

    def add(self, other):
        self.rows += other.rows
        self.absolute, self.relative = max(self.absolute, other.absolute), max(self.relative, other.relative)


def token_log_probabilities(logits, ids):
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]


def theirs(model, rows, ask):
    """A vector per row: logits, log-probabilities of tokens, or the mean of the last hidden states."""
    said = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row.ids])
            types = {"token_type_ids": torch.tensor([row.types])} if row.types else {}
            if ask == "classify":
                said.append(model(input_ids=ids, **types).logits[0])
            elif ask == "embed":
                said.append(model(input_ids=ids, **types).last_hidden_state[0].mean(0))
            elif model.config.is_encoder_decoder:
                start = model.generation_config.decoder_start_token_id
                start = model.config.decoder_start_token_id if start is None else start
                before = torch.tensor([[start, *row.target_ids[:-1]]])
                said.append(token_log_probabilities(model(input_ids=ids, decoder_input_ids=before).logits[0], row.target_ids))
            elif len(row.ids) < 2:
                said.append(torch.empty(0))
            else:
                # Without the last token: dynamic rotations look at how long the sequence is.
                logits = model(input_ids=ids[:, :-1]).logits[0]
                # Behind those of a prompt.
                said.append(token_log_probabilities(logits[1 - len(row.ids):], row.ids[1:]))
    return [values.float() for values in said]


def ours(trainer, directory, rows, ask):
    """The same from a prediction of ours."""
    if ask == "embed":
        path = trainer.predict(directory, [{"text": row.text} for row in rows], "embed", normalize=False)
        return list(load_file(path)["embeddings"])
    if ask == "classify":
        pair = {"text_pair_column": "pair"} if rows[0].pair else {}
        lines = trainer.predict(directory, [{"text": row.text, "pair": row.pair} for row in rows], "classify", **pair)
        return [torch.tensor([line["value"]] if "value" in line else line["logits"]) for line in lines]
    if rows[0].target:
        examples = [{"prompt": row.text, "completion": row.target} for row in rows]
        lines = trainer.predict(directory, examples, "score", prompt_column="prompt", completion_column="completion",
                                per_token=True)
    else:
        lines = trainer.predict(directory, [{"text": row.text} for row in rows], "score", text_column="text", per_token=True)
    return [torch.tensor(line["token_log_probabilities"]) for line in lines]


def difference(expected, found):
    assert len(expected) == len(found), f"{len(expected)} rows, but {len(found)} answers"
    for row, (a, b) in enumerate(zip(expected, found)):
        assert a.shape == b.shape, f"row {row}: {list(a.shape)} numbers of transformers, {list(b.shape)} of ours"
    absolute = max((a - b).abs().max().item() if a.numel() else 0 for a, b in zip(expected, found))
    greatest = max(a.abs().max().item() if a.numel() else 0 for a in expected)
    return Difference(len(expected), absolute, absolute / max(greatest, 1e-30))


def run_cases(description, versions, run):
    """Reads the arguments, calls run(args, root, trainer, report) in a directory of its own, and tells what came of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose names match this")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--keep", help="work there, and leave what was made")
    args = parser.parse_args()
    print(f"seed {args.seed}, {versions}", flush=True)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="thaw-parity-") as temporary:
        root = pathlib.Path(args.keep or temporary)
        run(args, root, TrainerProcess(root), report)
    return report.end()


class Report:
    """Largest differences by direction and family, and what failed."""

    def __init__(self):
        self.families = collections.defaultdict(Difference)
        self.cases, self.failures = 0, []

    def run(self, direction, family, name, check):
        began = time.monotonic()
        self.cases += 1
        try:
            found = check()
        except Exception as error:  # one failure should not hide the next
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
            print(f"FAILED {self.failures[-1]}", flush=True)
            return
        if found is None:
            print(f"ok {name}: refused by name", flush=True)
            return
        self.families[direction, family].add(found)
        if direction == "theirs":
            wrong = found.relative > LIMIT
        else:
            wrong = not (found.absolute <= LIMIT_OF_RESULTS or found.relative <= LIMIT_OF_LARGE_RESULTS)
        if wrong or found.absolute != found.absolute:
            self.failures.append(f"{name}: differs by {found.absolute:.1e} ({found.relative:.1e} relative)")
        print(f"{'DIFFERS' if wrong else 'ok'} {name}: {found.rows} rows, {found.absolute:.1e} absolute, "
              f"{found.relative:.1e} relative, {time.monotonic() - began:.1f} s", flush=True)

    def end(self):
        for (direction, family), found in sorted(self.families.items()):
            print(f"[ FIGURE   ] {direction} {family}: {found.rows} rows differ by at most {found.absolute:.1e}, "
                  f"{found.relative:.1e} relative")
        print(f"{self.cases} cases, {len(self.failures)} failed")
        for failure in self.failures:
            print("  " + failure)
        return 1 if self.failures or not self.cases else 0
