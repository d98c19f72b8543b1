"""A tokenizer by which the text "w7 w0" is the ids 7 and 0."""
import json


def write_id_tokenizer(directory, vocabulary):
    model = {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(vocabulary)}, "unk_token": "w0"}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None, "model": model}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
