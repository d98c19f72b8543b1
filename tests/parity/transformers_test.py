#!/usr/bin/env python3
"""Hugging Face directories load unchanged in both directions: transformers saves and we answer, we train and transformers
answers, with equal numbers.

  transformers_test.py [--only REGEX] [--seed N] [--keep DIR]

Runs with a Python that has torch and transformers (-DTHAW_TRANSFORMERS_PYTHON); the environment names THAW_BIN, where
thaw-trainer lies, and THAW_DEPS. Prints the largest differences of each family.
"""
import os
import random
import re
import sys

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
import torch  # noqa: E402
import transformers as tf  # noqa: E402

tf.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

import comparison  # noqa: E402
import from_thaw  # noqa: E402
import transformers_models  # noqa: E402
from id_tokenizer import write_id_tokenizer  # noqa: E402
from trainer_process import Refused  # noqa: E402

ROWS = 50


def random_rows(case, chance):
    """Rows of random ids; padding ids too, but not where a classifier of transformers looks for the end."""
    vocabulary = case.config.vocab_size
    longest = min(getattr(case.config, "max_position_embeddings", None) or 80, 80)
    padding = case.config.pad_token_id
    if case.family == "roberta":
        longest = min(longest, case.config.max_position_embeddings - padding - 1)
    ids = lambda length: [chance.randrange(vocabulary) for _ in range(length)]
    rows = []
    for _ in range(ROWS):
        row = ids(chance.choice([2, 3, 5, 9, 17, 30, longest]))
        while row[-1] == padding:
            row[-1] = chance.randrange(vocabulary)
        target = ids(chance.choice([1, 2, 5, 20, 45])) if case.family == "t5" and case.ask == "score" else []
        words = lambda some: " ".join(f"w{i}" for i in some)
        rows.append(comparison.Row(words(row), row, target=words(target), target_ids=target))
    # dynamic rotations of transformers grow with the longest sequence so far; ours look at each alone.
    return sorted(rows, key=lambda row: len(row.ids))


def ours_from_theirs(trainer, case, directory, seed):
    """Our difference from a model that transformers saved; None if we refused it as we should."""
    transformers_models.write(case, directory, seed)
    write_id_tokenizer(directory, case.config.vocab_size)
    rows = random_rows(case, random.Random(seed))
    try:
        found = comparison.ours(trainer, directory, rows, case.ask)
    except Refused as refused:
        assert case.refused and case.refused in str(refused), f"refused: {refused}"
        return None
    assert not case.refused, f"not refused, though it has {case.refused}"
    # As a user would load it, but in fp32, as we compute.
    bare = tf.T5EncoderModel if case.family == "t5" else tf.AutoModel
    loader = bare if case.ask == "embed" else case.model
    model = loader.from_pretrained(directory, dtype=torch.float32).eval()
    return comparison.difference(comparison.theirs(model, rows, case.ask), found)


def run(args, root, trainer, report):
    for number, case in enumerate(transformers_models.all_cases(random.Random(args.seed))):
        if re.search(args.only, f"theirs/{case.name}"):
            report.run("theirs", case.family, f"theirs/{case.name}",
                       lambda: ours_from_theirs(trainer, case, root / "theirs" / case.name, args.seed + number))
    for case in from_thaw.all_cases(random.Random(args.seed)):
        if re.search(args.only, f"ours/{case.name}"):
            report.run("ours", case.family, f"ours/{case.name}", lambda: from_thaw.check(trainer, case, root / "ours"))


if __name__ == "__main__":
    sys.exit(comparison.run_cases(__doc__, f"transformers {tf.__version__}, torch {torch.__version__}", run))
