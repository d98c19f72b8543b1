#!/usr/bin/env python3
"""Trains the small tokenizers here and records what Python's `tokenizers` makes of some texts: record_small.py

Needs tokenizers, sentencepiece and protobuf. For each kind <kind>.small.json, a tokenizer.json of about 400 tokens, and
<kind>.small.jsonl: text, ids, offsets (code points), special_ids and decoded, as in <model>.tokens.jsonl.
"""
import io
import json
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
LINES = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "A model learns from examples: the loss goes down while the steps go up.",
    "What is 12 * 34? It is 408, which is 400 + 8.", "She said: \"I don't think they're here; we'll see.\"",
    "Tokens are pieces of words, words are pieces of sentences.", "the there then these those this that",
    "caf\u00e9 na\u00efve fa\u00e7ade \u00fcber", "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u4f60\u597d\u5417", "def f(x):\n    return x + 1\n",
] * 3
TEXTS = [
    "", " ", "  ", "\n", "a", " a", "a ", "  a  b  ", "Hello, world!", "the lazy dog", "THE LAZY DOG", "don't they're we'll",
    "1234567890", "3.14159", "caf\u00e9", "cafe\u0301", "\uff21\uff22 fullwidth", "\ufb01\ufb02 ligature", "\u4f60\u597d\uff0c\u4e16\u754c", "\u65e5\u672c\u8a9e",
    "\U0001f600", "x\U0001f600\U0001f600y", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f", "\u0645\u0631\u062d\u0628\u0627", "Z\u0351\u036b\u0343a\u0302",
    "\x00", "a\tb\nc\r\nd", "\u00a0\u3000", "</s>", "<s>a</s> b", " </s> ", "a<mask>b", "a <mask> b", "<unk>", "<pad>", "\u2581under\u2581", "_",
    "def f(x):\n    return x\n", "the" * 40, " " * 20, "=" * 30, "\ufffd", "a\ufffdb", "[CLS] a [SEP]", "<0x41>", "so what, then these words?",
]
ALPHABET = sorted({c for line in LINES for c in line if c not in " \n"})


def charsmap():
    """A precompiled character map of a few rules; that of nmt_nfkc would be 240 KB."""
    with tempfile.TemporaryDirectory() as directory:
        rules = Path(directory) / "rules.tsv"
        rules.write_text("FF21\t41\nFF22\t42\nFB01\t66 69\nFB02\t66 6C\n65 301\tE9\n3000\t20\nA0\t20\n9\t20\nA\t20\n", encoding="utf-8")
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_writer=model, vocab_size=120, normalization_rule_tsv=str(rules),
            hard_vocab_limit=False, minloglevel=2)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto.normalizer_spec.precompiled_charsmap


def template(single, pair, *tokens):
    return lambda tok: processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(t, tok.token_to_id(t)) for t in tokens])


def unigram():  # as T5's
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap()), normalizers.Replace(Regex(" {2,}"), " ")])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    tok.decoder = decoders.Metaspace(prepend_scheme="always")
    tok.train_from_iterator(LINES, trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", initial_alphabet=ALPHABET, show_progress=False))
    tok.post_processor = template("$A </s>", "$A </s> $B </s>", "</s>")(tok)
    return tok


def byte_fallback():  # as LLaMA's and Mistral's
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    tok.train_from_iterator(LINES, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"] + bytes_, limit_alphabet=60, max_token_length=8, show_progress=False))
    spec = json.loads(tok.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]  # bytes are plain tokens
    tok = Tokenizer.from_str(json.dumps(spec))
    tok.post_processor = template("<s> $A", "<s> $A <s> $B", "<s>")(tok)
    return tok


def byte_level(post_processor, **options):
    def make():
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = options.get("pre_tokenizer") or pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.decoder = decoders.ByteLevel()
        tok.train_from_iterator(LINES, trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        tok.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
        tok.post_processor = post_processor(tok)
        return tok
    return make


def bloom_split():
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


KINDS = {
    "unigram": unigram,
    "byte_fallback": byte_fallback,
    "gpt2": byte_level(lambda tok: processors.ByteLevel(trim_offsets=False)),
    "roberta": byte_level(lambda tok: processors.RobertaProcessing(
        ("</s>", tok.token_to_id("</s>")), ("<s>", tok.token_to_id("<s>")), trim_offsets=True, add_prefix_space=False)),
    "bloom": byte_level(lambda tok: processors.ByteLevel(add_prefix_space=True, trim_offsets=False), pre_tokenizer=bloom_split()),
}


def main():
    for kind, make in KINDS.items():
        tok = make()
        (HERE / f"{kind}.small.json").write_text(tok.to_str(), encoding="utf-8")
        with open(HERE / f"{kind}.small.jsonl", "w", encoding="utf-8") as out:
            for text in TEXTS:
                plain = tok.encode(text, add_special_tokens=False)
                out.write(json.dumps({
                    "text": text, "ids": plain.ids, "offsets": plain.offsets, "special_ids": tok.encode(text).ids,
                    "decoded": tok.decode(plain.ids, skip_special_tokens=False)}) + "\n")


if __name__ == "__main__":
    main()
