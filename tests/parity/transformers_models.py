"""Small models of transformers with random weights, under the options that change what a family computes."""
import dataclasses
import json
import re

import torch
import transformers as tf
from safetensors.torch import load_file, save_file

ODD = {"initializer_range": 0.1}  # so that tiny models say something


@dataclasses.dataclass
class Case:
    """A model to write; `ask` is what our predictions are asked: classify, score or embed."""
    name: str
    model: type
    config: object
    ask: str
    options: dict = dataclasses.field(default_factory=dict)  # of save_pretrained, and "dtype"
    refused: str = ""  # the field that our message must name
    edit: object = None  # called with the directory, when all is written

    @property
    def family(self):
        return self.config.model_type


def perturb(model, generator):
    """Biases and norms that are neither 0 nor 1, so that none can be left out unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def write(case, directory, seed):
    """The directory as save_pretrained makes it; without a tokenizer."""
    torch.manual_seed(seed)
    model = case.model(case.config)
    perturb(model, torch.Generator().manual_seed(seed))
    options = dict(case.options)
    model.to(options.pop("dtype", torch.float32)).save_pretrained(directory, **options)
    if case.edit:
        case.edit(directory)


def unties(directory):
    """config.json says that the output layer is not the embeddings, and the files have none."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "tie_word_embeddings": False}), encoding="utf-8")


def adds_output(directory):
    """The files have an output layer that differs from the embeddings, though config.json ties them."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    words = next(tensor for name, tensor in tensors.items() if re.search(r"(embed_tokens|wte|word_embeddings|shared)\.weight$", name))
    save_file({**tensors, "lm_head.weight": words.flip(0).contiguous()}, path, {"format": "pt"})


def strips_prefix(directory):
    """The names of old files: those of the base model have no prefix."""
    path = directory / "model.safetensors"
    save_file({re.sub(r"^(model|transformer)\.", "", name): tensor for name, tensor in load_file(path).items()}, path,
              {"format": "pt"})


def bert(random, **options):
    heads, width = random.choice([(1, 8), (2, 12), (3, 16), (5, 4), (8, 8)])
    return tf.BertConfig(**{**ODD, "vocab_size": random.randrange(90, 300), "hidden_size": heads * width,
                            "num_hidden_layers": random.randrange(1, 4), "num_attention_heads": heads,
                            "intermediate_size": random.randrange(20, 90), "max_position_embeddings": 96, **options})


def roberta(random, **options):
    plain = bert(random).to_dict()
    sizes = {name: plain[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                                            "intermediate_size")}
    return tf.RobertaConfig(**{**ODD, **sizes, "max_position_embeddings": 104, "type_vocab_size": 1, **options})


def distilbert(random, **options):
    heads, width = random.choice([(1, 8), (2, 12), (3, 16), (6, 4)])
    return tf.DistilBertConfig(**{**ODD, "vocab_size": random.randrange(90, 300), "dim": heads * width,
                                  "n_layers": random.randrange(1, 4), "n_heads": heads,
                                  "hidden_dim": random.randrange(20, 90), "max_position_embeddings": 96, **options})


def gpt2(random, **options):
    heads, width = random.choice([(1, 8), (2, 12), (3, 16), (6, 4)])
    return tf.GPT2Config(**{**ODD, "vocab_size": random.randrange(90, 300), "n_embd": heads * width,
                            "n_layer": random.randrange(1, 4), "n_head": heads, "n_positions": 96, "bos_token_id": 1,
                            "eos_token_id": 2, **options})


def bloom(random, heads, **options):
    return tf.BloomConfig(**{**ODD, "vocab_size": random.randrange(90, 300), "hidden_size": heads * random.choice([4, 6, 8]),
                             "n_layer": random.randrange(1, 4), "n_head": heads, **options})


def decoder(config, random, **options):
    """LLaMA and its kin."""
    kv = random.choice([1, 2, 3])
    heads, width = kv * random.choice([1, 2, 4]), random.choice([6, 8, 10, 16])
    return config(**{**ODD, "vocab_size": random.randrange(90, 300), "hidden_size": heads * width,
                     "num_hidden_layers": random.randrange(1, 4), "num_attention_heads": heads, "num_key_value_heads": kv,
                     "intermediate_size": random.randrange(20, 90), "max_position_embeddings": 96, "bos_token_id": 1,
                     "eos_token_id": 2, "head_dim": width, "tie_word_embeddings": False, **options})


def t5(random, **options):
    heads = random.choice([1, 2, 3, 6])
    return tf.T5Config(**{"vocab_size": random.randrange(90, 300), "d_model": random.choice([12, 24, 40]),
                          "d_kv": random.choice([4, 6, 8]), "d_ff": random.randrange(20, 90),
                          "num_layers": random.randrange(1, 4), "num_heads": heads, "decoder_start_token_id": 0,
                          "relative_attention_num_buckets": 12, "relative_attention_max_distance": 20, **options})


def encoder_cases(random):
    B, R, D = tf.BertForSequenceClassification, tf.RobertaForSequenceClassification, tf.DistilBertForSequenceClassification
    many, number = {"problem_type": "multi_label_classification", "num_labels": 4}, {"num_labels": 1}
    for seed in range(2):
        yield Case(f"bert-{seed}", B, bert(random, num_labels=3), "classify")
        yield Case(f"roberta-{seed}", R, roberta(random, num_labels=3), "classify")
        yield Case(f"distilbert-{seed}", D, distilbert(random, num_labels=3), "classify")
    yield Case("bert-labels", B, bert(random, **many), "classify")
    yield Case("bert-number", B, bert(random, **number), "classify")
    yield Case("bert-labels-named", B, bert(random, id2label={0: "no", 1: "yes", 2: "ä"}, label2id={"no": 0, "yes": 1, "ä": 2}),
               "classify")
    yield Case("bert-relu", B, bert(random, hidden_act="relu", layer_norm_eps=1e-5), "classify")
    yield Case("bert-tanh-gelu", B, bert(random, hidden_act="gelu_pytorch_tanh", type_vocab_size=1), "classify")
    yield Case("bert-silu-types", B, bert(random, hidden_act="silu", type_vocab_size=5), "classify")
    yield Case("bert-bare", tf.BertModel, bert(random), "embed")
    yield Case("bert-masked", tf.BertForMaskedLM, bert(random), "embed")
    yield Case("bert-masked-untied", tf.BertForMaskedLM, bert(random, tie_word_embeddings=False), "embed")
    yield Case("bert-pretraining", tf.BertForPreTraining, bert(random), "embed")
    yield Case("bert-double", B, bert(random), "classify", {"dtype": torch.float64})
    yield Case("bert-half", B, bert(random), "classify", {"dtype": torch.float16})
    yield Case("bert-bfloat-shards", B, bert(random), "classify", {"dtype": torch.bfloat16, "max_shard_size": "20KB"})
    yield Case("bert-quick-gelu", B, bert(random, hidden_act="quick_gelu"), "classify", refused="hidden_act")
    yield Case("bert-decoder", tf.BertModel, bert(random, is_decoder=True), "embed", refused="is_decoder")
    yield Case("bert-two-numbers", B, bert(random, problem_type="regression", num_labels=2), "classify",
               refused="prediction.model")
    yield Case("roberta-pad-0", R, roberta(random, pad_token_id=0), "classify")
    yield Case("roberta-pad-7-types", R, roberta(random, pad_token_id=7, type_vocab_size=3), "classify")
    yield Case("roberta-labels", R, roberta(random, **many), "classify")
    yield Case("roberta-number", R, roberta(random, **number), "classify")
    yield Case("roberta-masked", tf.RobertaForMaskedLM, roberta(random, hidden_act="relu"), "embed")
    yield Case("roberta-bare-half", tf.RobertaModel, roberta(random), "embed", {"dtype": torch.float16})
    yield Case("distilbert-sinus", D, distilbert(random, sinusoidal_pos_embds=True), "classify")
    yield Case("distilbert-relu-labels", D, distilbert(random, activation="relu", **many), "classify")
    yield Case("distilbert-number", D, distilbert(random, **number), "classify")
    yield Case("distilbert-masked", tf.DistilBertForMaskedLM, distilbert(random), "embed")
    yield Case("distilbert-bare-bfloat", tf.DistilBertModel, distilbert(random), "embed", {"dtype": torch.bfloat16})


def gpt_cases(random):
    G, B = tf.GPT2LMHeadModel, tf.BloomForCausalLM
    for seed in range(2):
        yield Case(f"gpt2-{seed}", G, gpt2(random), "score")
    yield Case("gpt2-unscaled", G, gpt2(random, scale_attn_weights=False), "score")
    yield Case("gpt2-by-layer", G, gpt2(random, scale_attn_by_inverse_layer_idx=True, n_layer=3), "score")
    yield Case("gpt2-by-layer-alone", G, gpt2(random, scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False, n_layer=3),
               "score")
    yield Case("gpt2-upcast", G, gpt2(random, reorder_and_upcast_attn=True), "score")
    yield Case("gpt2-inner-relu", G, gpt2(random, n_inner=30, activation_function="relu", layer_norm_epsilon=1e-3), "score")
    yield Case("gpt2-gelu-untied", G, gpt2(random, activation_function="gelu", tie_word_embeddings=False), "score")
    yield Case("gpt2-tied-in-name", G, gpt2(random), "score", edit=adds_output)
    yield Case("gpt2-labels", tf.GPT2ForSequenceClassification, gpt2(random, num_labels=4), "classify")
    yield Case("gpt2-number", tf.GPT2ForSequenceClassification, gpt2(random, num_labels=1, pad_token_id=2), "classify")
    yield Case("gpt2-bare", tf.GPT2Model, gpt2(random), "embed")
    yield Case("gpt2-half-shards", G, gpt2(random), "score", {"dtype": torch.float16, "max_shard_size": "20KB"})
    yield Case("gpt2-tanh", G, gpt2(random, activation_function="tanh"), "score", refused="activation_function")
    yield Case("gpt2-cross", G, gpt2(random, add_cross_attention=True), "score", refused="add_cross_attention")
    for heads in (1, 3, 4, 6, 7, 10, 12, 16, 24):
        yield Case(f"bloom-{heads}-heads", B, bloom(random, heads), "score")
    yield Case("bloom-post-norm", B, bloom(random, 5, apply_residual_connection_post_layernorm=True), "score")
    yield Case("bloom-slices", B, bloom(random, 4, pretraining_tp=2), "score")
    yield Case("bloom-slow", B, bloom(random, 4, pretraining_tp=2, slow_but_exact=True), "score", refused="slow_but_exact")
    yield Case("bloom-untied", B, bloom(random, 6, tie_word_embeddings=False, layer_norm_epsilon=1e-3), "score")
    yield Case("bloom-labels", tf.BloomForSequenceClassification, bloom(random, 10, num_labels=3, pad_token_id=3), "classify")
    yield Case("bloom-bare-bfloat", tf.BloomModel, bloom(random, 5), "embed", {"dtype": torch.bfloat16})


def rope(kind, **options):
    return {"rope_parameters": {"rope_theta": 5000.0, "rope_type": kind, **options}}


ROPES = {
    "linear": rope("linear", factor=2.5),
    "dynamic": {**rope("dynamic", factor=3.0), "max_position_embeddings": 24},
    "llama3": rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=24),
    "yarn-untruncated": rope("yarn", factor=4.0, original_max_position_embeddings=24, truncate=False, beta_fast=16.0, beta_slow=2.0),
    "yarn-attention-factor": rope("yarn", factor=4.0, original_max_position_embeddings=24, attention_factor=0.8),
    "yarn-mscale": rope("yarn", factor=8.0, original_max_position_embeddings=12, mscale=0.7, mscale_all_dim=1.1),
}


def llama_cases(random):
    L, M, Q, K = tf.LlamaForCausalLM, tf.MistralForCausalLM, tf.Qwen2ForCausalLM, tf.Qwen3ForCausalLM
    llama = lambda **options: decoder(tf.LlamaConfig, random, **options)
    mistral = lambda **options: decoder(tf.MistralConfig, random, **options)
    qwen2 = lambda **options: decoder(tf.Qwen2Config, random, **options)
    qwen3 = lambda **options: decoder(tf.Qwen3Config, random, **options)
    for heads, kv in ((8, 8), (8, 4), (8, 2), (8, 1), (6, 3), (9, 3)):
        yield Case(f"llama-{heads}-{kv}", L, llama(num_attention_heads=heads, num_key_value_heads=kv, hidden_size=72, head_dim=8),
                   "score")
    for name, parameters in ROPES.items():
        yield Case(f"llama-{name}", L, llama(**parameters), "score")
    for name in ("linear", "yarn", "dynamic", "llama3"):
        config, model = {"linear": (mistral, M), "yarn": (qwen2, Q), "dynamic": (qwen3, K), "llama3": (mistral, M)}[name]
        yield Case(f"{model.config_class.model_type}-{name}", model, config(**ROPES[name]), "score")
    yield Case("llama-tied", L, llama(tie_word_embeddings=True), "score")
    yield Case("llama-tied-in-name", L, llama(tie_word_embeddings=True), "score", edit=adds_output)
    yield Case("llama-ends", L, llama(eos_token_id=[2, 5, 7], use_cache=False, output_hidden_states=True), "score")
    yield Case("llama-biases", L, llama(attention_bias=True, mlp_bias=True, rms_norm_eps=1e-3), "score")
    yield Case("llama-gelu", L, llama(hidden_act="gelu", **rope("default")), "score")
    yield Case("llama-labels", tf.LlamaForSequenceClassification, llama(num_labels=3, pad_token_id=0), "classify")
    yield Case("llama-bare", tf.LlamaModel, llama(), "embed")
    yield Case("llama-bfloat-shards", L, llama(), "score", {"dtype": torch.bfloat16, "max_shard_size": "20KB"})
    yield Case("llama-half-tied-shards", L, llama(tie_word_embeddings=True), "score",
               {"dtype": torch.float16, "max_shard_size": "20KB"})
    yield Case("llama-partial", L, llama(**rope("default", partial_rotary_factor=0.5)), "score", refused="partial_rotary_factor")
    yield Case("llama-long", L, llama(head_dim=8, **rope("longrope", factor=2.0, short_factor=[1.0] * 4, long_factor=[2.0] * 4,
                                                         original_max_position_embeddings=48)), "score", refused="rope_type")
    yield Case("mistral-window", M, mistral(sliding_window=7), "score")
    yield Case("mistral-window-1", M, mistral(sliding_window=1), "score")
    yield Case("mistral-open", M, mistral(sliding_window=None, tie_word_embeddings=True), "score")
    yield Case("mistral-labels", tf.MistralForSequenceClassification, mistral(num_labels=5, sliding_window=9), "classify")
    yield Case("mistral-narrow-heads", M, mistral(hidden_size=40, num_attention_heads=6, num_key_value_heads=2, head_dim=10), "score")
    yield Case("qwen2-tied", Q, qwen2(tie_word_embeddings=True), "score")
    yield Case("qwen2-windows", Q, qwen2(use_sliding_window=True, sliding_window=6, max_window_layers=1, num_hidden_layers=3),
               "score")
    yield Case("qwen2-layers", Q, qwen2(use_sliding_window=True, sliding_window=5, num_hidden_layers=3,
                                        layer_types=["sliding_attention", "full_attention", "sliding_attention"]), "score")
    yield Case("qwen2-unused-window", Q, qwen2(use_sliding_window=False, sliding_window=5), "score")
    yield Case("qwen2-labels", tf.Qwen2ForSequenceClassification, qwen2(num_labels=3, pad_token_id=4), "classify")
    yield Case("qwen3-biases", K, qwen3(attention_bias=True), "score")
    yield Case("qwen3-wide-heads", K, qwen3(hidden_size=36, num_attention_heads=4, num_key_value_heads=2, head_dim=14,
                                            tie_word_embeddings=True), "score")
    yield Case("qwen3-windows", K, qwen3(use_sliding_window=True, sliding_window=4, max_window_layers=0), "score")
    yield Case("qwen3-bare-half", tf.Qwen3Model, qwen3(), "embed", {"dtype": torch.float16})


def t5_cases(random):
    T = tf.T5ForConditionalGeneration
    for seed in range(2):
        yield Case(f"t5-{seed}", T, t5(random), "score")
        yield Case(f"t5-gated-{seed}", T, t5(random, feed_forward_proj="gated-gelu", tie_word_embeddings=False), "score")
    yield Case("t5-gated-silu", T, t5(random, feed_forward_proj="gated-silu"), "score")
    yield Case("t5-gelu-untied", T, t5(random, feed_forward_proj="gelu", tie_word_embeddings=False), "score")
    yield Case("t5-deep-decoder", T, t5(random, num_layers=1, num_decoder_layers=3), "score")
    yield Case("t5-buckets", T, t5(random, relative_attention_num_buckets=32, relative_attention_max_distance=128,
                                   layer_norm_epsilon=1e-4), "score")
    yield Case("t5-scaled-untied", T, t5(random, tie_word_embeddings=False, scale_decoder_outputs=True), "score")
    yield Case("t5-unscaled-tied", T, t5(random, scale_decoder_outputs=False), "score")
    yield Case("t5-start-5", T, t5(random, decoder_start_token_id=5, pad_token_id=3), "score")
    yield Case("t5-half-shards", T, t5(random), "score", {"dtype": torch.float16, "max_shard_size": "20KB"})
    yield Case("t5-tied-in-name", T, t5(random), "score", edit=adds_output)
    yield Case("t5-bare", tf.T5Model, t5(random), "embed")
    yield Case("t5-encoder", tf.T5EncoderModel, t5(random), "embed")
    yield Case("t5-labels", tf.T5ForSequenceClassification, t5(random, num_labels=3), "classify", refused="architectures")


def all_cases(random):
    for cases in (encoder_cases, gpt_cases, llama_cases, t5_cases):
        yield from cases(random)
