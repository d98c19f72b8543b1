"""Trains with thaw-trainer what transformers saved, and has transformers load the result."""
import dataclasses
import json
import re

import torch
import transformers as tf
from safetensors import safe_open

import comparison
import transformers_models as models

WORDS = ("the quick brown fox jumps over a lazy dog while seven small Grüße from München naïve café 日本 😀 don't 3.14 x_y "
         "Thaw trains tiny models on short texts and then they are read again elsewhere").split()
ROWS = 56
LABELS = ["left", "middle", "rechts ä"]
TOKENIZERS = {"bert": tf.BertTokenizer, "distilbert": tf.DistilBertTokenizer, "roberta": tf.RobertaTokenizer, "gpt2": tf.GPT2Tokenizer,
              "bloom": tf.GPT2Tokenizer, "llama": tf.LlamaTokenizer, "mistral": tf.LlamaTokenizer, "qwen2": tf.Qwen2Tokenizer,
              "qwen3": tf.Qwen2Tokenizer, "t5": tf.T5Tokenizer}
HALF, BRAIN = {"dtype": torch.float16}, {"dtype": torch.bfloat16}
SHARDS = {"max_shard_size": "20KB"}
TOP = [{"selector": {"last_blocks": 1}, "learning_rate": 1e-2, "steps": 6}]
HEAD = [{"selector": {"head_only": True}, "learning_rate": 1e-2, "steps": 6}]


@dataclasses.dataclass
class Training:
    """What to train, and as what transformers loads it."""
    task: str  # of our spec
    fields: dict
    loader: type
    ask: str
    phases: list = None


TRAININGS = {
    "label": Training("text_classification", {}, tf.AutoModelForSequenceClassification, "classify"),
    "labels": Training("text_classification", {"multi_label": True}, tf.AutoModelForSequenceClassification, "classify", TOP),
    "pair": Training("text_classification", {"text_pair_column": "pair"}, tf.AutoModelForSequenceClassification, "classify"),
    "number": Training("regression", {}, tf.AutoModelForSequenceClassification, "classify", HEAD),
    "text": Training("language_modeling", {"layout": "PER_DOCUMENT"}, tf.AutoModelForCausalLM, "score"),
    "completion": Training("completion", {}, tf.AutoModelForCausalLM, "score", TOP),
    "target": Training("sequence_to_sequence", {}, tf.AutoModelForSeq2SeqLM, "score"),
    "target-top": Training("sequence_to_sequence", {}, tf.AutoModelForSeq2SeqLM, "score", TOP),
    "vectors": Training("text_classification", {}, tf.AutoModel, "embed"),
}


@dataclasses.dataclass
class ResultCase:
    name: str
    source: models.Case
    training: Training
    seed: int
    new_words: bool = False  # with another tokenizer than the source's

    @property
    def family(self):
        return self.source.family


def all_cases(random):
    """Each family with every task that it can learn, from sources of several element types, whole and in shards."""
    def cases(family, source, *trainings, edit=None, new_words=False):
        for kind, options in trainings:
            model, config = source()
            yield ResultCase(f"{family}-{kind}", models.Case(family, model, config, "", options, edit=edit), TRAININGS[kind],
                             random.randrange(1 << 30), new_words)

    labelled = (("label", SHARDS), ("labels", {**BRAIN, **SHARDS}), ("number", HALF), ("vectors", {}))
    kin = lambda model, config, **options: lambda: (model, models.decoder(config, random, num_hidden_layers=2, **options))
    pairs = (*labelled, ("pair", {}))
    yield from cases("bert", lambda: (tf.BertForMaskedLM, models.bert(random, num_hidden_layers=2)), *pairs)
    yield from cases("bert-bare", lambda: (tf.BertModel, models.bert(random, num_hidden_layers=2)), *labelled[1:2])
    yield from cases("roberta", lambda: (tf.RobertaForMaskedLM, models.roberta(random, num_hidden_layers=2)), *pairs)
    yield from cases("distilbert", lambda: (tf.DistilBertForMaskedLM, models.distilbert(random, n_layers=2)), *pairs)
    for family, tied, untied in (
            ("gpt2", lambda: (tf.GPT2LMHeadModel, models.gpt2(random, n_layer=2)),
             lambda: (tf.GPT2LMHeadModel, models.gpt2(random, n_layer=2, tie_word_embeddings=False))),
            ("bloom", lambda: (tf.BloomForCausalLM, models.bloom(random, 5, n_layer=2)),
             lambda: (tf.BloomForCausalLM, models.bloom(random, 10, n_layer=2, tie_word_embeddings=False))),
            ("llama", kin(tf.LlamaForCausalLM, tf.LlamaConfig, tie_word_embeddings=True, **models.ROPES["llama3"]),
             kin(tf.LlamaForCausalLM, tf.LlamaConfig, attention_bias=True, mlp_bias=True)),
            ("mistral", kin(tf.MistralForCausalLM, tf.MistralConfig, tie_word_embeddings=True, sliding_window=6),
             kin(tf.MistralForCausalLM, tf.MistralConfig, **models.ROPES["yarn"])),
            ("qwen2", kin(tf.Qwen2ForCausalLM, tf.Qwen2Config, tie_word_embeddings=True),
             kin(tf.Qwen2ForCausalLM, tf.Qwen2Config, use_sliding_window=True, sliding_window=6, max_window_layers=1)),
            ("qwen3", kin(tf.Qwen3ForCausalLM, tf.Qwen3Config, tie_word_embeddings=True),
             kin(tf.Qwen3ForCausalLM, tf.Qwen3Config, attention_bias=True))):
        yield from cases(family, tied, *labelled, ("text", {}))
        yield from cases(family, untied, ("completion", {**BRAIN, **SHARDS}))
        yield from cases(family + "-tied-shards", tied, ("text", {**HALF, **SHARDS}))
        yield from cases(family + "-untied", untied, ("text", SHARDS))
        yield from cases(family + "-without-output", tied, ("text", {}), edit=models.unties)
        yield from cases(family + "-tied-in-name", tied, ("text", {}), edit=models.adds_output)
        yield from cases(family + "-old-names", tied, ("text", {}), edit=models.strips_prefix)
        yield from cases(family + "-old-names-untied", untied, ("text", {}), edit=models.strips_prefix)
        yield from cases(family + "-new-words", untied if family in ("bloom", "qwen2") else tied, ("text", {}), new_words=True)
    yield from cases("bert-new-words", lambda: (tf.BertForMaskedLM, models.bert(random)), ("label", SHARDS), new_words=True)
    yield from cases("roberta-new-words", lambda: (tf.RobertaForMaskedLM, models.roberta(random)), ("labels", BRAIN),
                     new_words=True)
    for family, options in (("t5", {}), ("t5-v1.1", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False})):
        source = lambda: (tf.T5ForConditionalGeneration, models.t5(random, num_layers=2, num_decoder_layers=3, **options))
        yield from cases(family, source, ("target", SHARDS), ("target-top", {**BRAIN, **SHARDS}))
        yield from cases(family + "-new-words", source, ("target", {}), new_words=True)
        if family == "t5":
            yield from cases(family + "-without-output", source, ("target", {}), edit=models.unties)


def text(random, least=1):
    return " ".join(random.choice(WORDS) for _ in range(random.randrange(least, 14)))


def training_rows(kind, random):
    for _ in range(48):
        words = text(random, 2)
        answer = {"label": random.choice(LABELS), "labels": random.sample(LABELS, random.randrange(4)),
                  "number": random.uniform(-2, 2), "vectors": random.choice(LABELS), "pair": random.choice(LABELS)}
        if kind in answer:
            yield {"text": words, "label": answer[kind], "pair": text(random)}
        elif kind == "completion":
            yield {"prompt": words, "completion": " " + text(random)}
        elif kind.startswith("target"):
            yield {"source": words, "target": text(random)}
        else:
            yield {"text": words}


def new_tokenizer(family, words, size):
    return TOKENIZERS[family]().train_new_from_iterator([" ".join(words), *words] * 4, vocab_size=size)


def write_source(case, directory, random):
    """A model with a tokenizer that belongs to it, as transformers saves them."""
    tokenizer = new_tokenizer(case.family, WORDS, 420)
    config = case.source.config
    config.vocab_size = len(tokenizer) + random.randrange(9)  # some models have more rows than tokens
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    if case.family in ("bert", "roberta", "distilbert", "t5"):
        config.pad_token_id = tokenizer.pad_token_id
    if case.family == "t5":
        config.decoder_start_token_id = tokenizer.pad_token_id
    models.write(case.source, directory, case.seed)
    tokenizer.save_pretrained(directory)
    return tokenizer


def tensors(directory):
    """name -> (dtype, bytes) of all files."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                tensor = file.get_tensor(name)
                found[name] = (tensor.dtype, tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def check_frozen(case, source, result):
    """What was not trained is there byte for byte, in the element type that it came in."""
    if case.training.phases is None:
        return
    last = max(int(found.group(1)) for name in source if (found := re.search(r"(?:decoder\.block|layers?|h)\.(\d+)\.", name)))
    top = rf"decoder\.block\.{last}\." if case.family == "t5" else rf"(?:layers?|h)\.{last}\."
    in_blocks = [name for name in source if re.search(r"(?:block|layers?|h)\.\d+\.", name)]
    head_only = case.training.phases is HEAD
    frozen = [name for name in in_blocks if head_only or not re.search(top, name)]
    bare = {name.split(".", 1)[1] if "." in name else name: name for name in result}
    changed = [name for name in frozen if result.get(name, result.get(bare.get(name))) != source[name]]
    assert frozen and not changed, f"{len(changed)} of {len(frozen)} frozen tensors are not as they were: {changed[:3]}"
    trained = [name for name in in_blocks if name not in frozen]
    same = [name for name in trained if result.get(name, result.get(bare.get(name))) == source[name]]
    assert not same, f"not trained: {same[:3]}"


def check_config(case, source, result):
    config, original = read_json(result / "config.json"), read_json(source / "config.json")
    loose = {"architectures", "dtype"}
    if case.training.loader is tf.AutoModelForSequenceClassification or case.training.ask == "embed":
        kind = {"labels": "multi_label_classification", "number": "regression"}.get(case.name.rsplit("-", 1)[1],
                                                                                    "single_label_classification")
        names = ["LABEL_0"] if kind == "regression" else LABELS
        assert config["problem_type"] == kind, config["problem_type"]
        assert config["id2label"] == {str(i): name for i, name in enumerate(names)}, config["id2label"]
        assert config["label2id"] == {name: i for i, name in enumerate(names)}, config["label2id"]
        loaded = tf.AutoConfig.from_pretrained(result)
        assert loaded.num_labels == len(names) and loaded.id2label == dict(enumerate(names)), loaded
        loose |= {"problem_type", "id2label", "label2id"}
    else:
        assert config["architectures"] == original["architectures"], config["architectures"]
    if case.new_words:
        loose |= {"vocab_size", *(name for name in original if name.endswith("_token_id"))}
    different = [name for name in {*config, *original} - loose if config.get(name) != original.get(name)]
    assert not different, f"config.json differs in {different}"
    assert config["dtype"] == "float32", config["dtype"]
    generation = source / "generation_config.json"
    if generation.exists() and not case.new_words:
        assert (result / "generation_config.json").read_bytes() == generation.read_bytes(), "generation_config.json differs"


def check_tokenizer(source_tokenizer, result, rows):
    tokenizer = tf.AutoTokenizer.from_pretrained(result)
    for words in [*WORDS, *(row.text for row in rows), "", "  two  spaces ", "a\nb"]:
        assert tokenizer(words).input_ids == source_tokenizer(words).input_ids, f"other ids of {words!r}"
    assert tokenizer.special_tokens_map == source_tokenizer.special_tokens_map, tokenizer.special_tokens_map
    return tokenizer


def check_names(case, model, source, result):
    """The tensors of the source under its names; for another head those that transformers itself would write."""
    if case.training.loader in (tf.AutoModelForCausalLM, tf.AutoModelForSeq2SeqLM):
        missing = {"lm_head.weight"} if case.source.edit is models.unties else set()
        assert source.keys() | missing == result.keys(), f"other tensors: {sorted(source.keys() ^ result.keys())[:5]}"
    elif case.training.ask == "classify":
        own = model.state_dict().keys()
        assert result.keys() == own, f"other tensors: {sorted(result.keys() ^ own)[:5]}"


def check(trainer, case, root):
    from random import Random
    random = Random(case.seed)
    source = root / case.name / "source"
    source_tokenizer = write_source(case, source, random)
    training = case.training
    kind = next(name for name, known in TRAININGS.items() if known is training)
    changes = {"phases": training.phases} if training.phases else {}
    other = None
    if case.new_words:
        other = root / case.name / "tokenizer"
        source_tokenizer = new_tokenizer(case.family, WORDS[::2] + ["thawing", "münchnerisch", "elsewhere"], 400)
        source_tokenizer.save_pretrained(other)
    result = trainer.train(source, list(training_rows(kind, random)), training.task, other,
                           **{training.task: training.fields}, **changes)
    rows = [comparison.Row(text(random, 2), []) for _ in range(ROWS)]
    tokenizer = check_tokenizer(source_tokenizer, result, rows)
    for row in rows:
        row.pair = text(random) if kind == "pair" else ""
        encoded = tokenizer(row.text, row.pair or None)
        row.ids, row.types = encoded.input_ids, encoded.get("token_type_ids", [])
        if kind.startswith("target"):
            row.target = text(random)
            row.target_ids = tokenizer(row.target, add_special_tokens=False).input_ids
    model, loading = training.loader.from_pretrained(result, output_loading_info=True)
    # A model without a head has a pooler that some classifiers lack, and leaves their heads alone.
    spare = {"missing_keys": r"pooler\.", "unexpected_keys": r"(pre_)?classifier\.|score\."}
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        left = [key for key in loading.get(what) or () if training.ask != "embed" or not re.match(spare.get(what, "$"), key)]
        assert not left, f"{what}: {sorted(left)[:5]}"
    assert model.dtype == torch.float32, model.dtype
    model.eval()
    if case.new_words:
        assert model.config.vocab_size == len(tokenizer), f"{model.config.vocab_size} rows for {len(tokenizer)} tokens"
    check_config(case, source, result)
    before, after = tensors(source), tensors(result)
    check_names(case, model, before, after)
    check_frozen(case, before, after)
    found = comparison.difference(comparison.theirs(model, rows, training.ask), comparison.ours(trainer, result, rows, training.ask))
    if training.ask == "score":
        check_text(trainer, case, model, result, tokenizer, rows[:8])
    found.add(check_again(trainer, training, model, tokenizer, rows, root / case.name / "again"))
    return found


def check_text(trainer, case, model, result, tokenizer, rows):
    """Greedy text of both is the same."""
    prompts = [{"prompt": row.text} for row in rows]
    lines = trainer.predict(result, prompts, "generate", prompt_column="prompt", max_new_tokens=12)
    for row, line in zip(rows, lines):
        # use_cache: transformers' own breaks where T5's stacks have unequal depths.
        ids = model.generate(torch.tensor([row.ids]), do_sample=False, max_new_tokens=12, use_cache=case.family != "t5")[0]
        ids = ids[1:] if case.family == "t5" else ids[len(row.ids):]
        expected = tokenizer.decode(ids, skip_special_tokens=True)
        assert line["text"] == expected, f"after {row.text!r} we write {line['text']!r}, transformers {expected!r}"


def check_again(trainer, training, model, tokenizer, rows, directory):
    """What transformers saves of our result is the same to us."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return comparison.difference(comparison.theirs(model, rows, training.ask),
                                 comparison.ours(trainer, directory, rows, training.ask))
