"""Useful floating-point operations of a window: what the work needs, whoever does it, padding not counted.

With N parameters of matrices that a token passes: 2 N forward, 2 N for gradients of inputs in blocks from the lowest that
trains on, 2 N for gradients of the weights that train; attention 4 T d a token and block forward, half of that where it
reads left to right, and twice as much backward. What a side keeps from an earlier pass (frozen blocks) it does not do again:
`cached` leaves that out for ours.
"""
import json

RANK = 16


class Shape:
    """Sizes of a model, from its config.json."""

    def __init__(self, directory):
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        self.width = config.get("n_embd") or config["hidden_size"]
        self.blocks = config.get("n_layer") or config["num_hidden_layers"]
        heads = config.get("n_head") or config["num_attention_heads"]
        inner = config.get("n_inner") or config.get("intermediate_size") or 4 * self.width
        kv = config.get("num_key_value_heads") or heads
        self.causal = config["model_type"] != "bert"
        # (out, in) of the linear layers of a block: attention's four, then the feed-forward layer's.
        gated = 3 if config["model_type"] == "llama" else 2
        self.linears = [(self.width, self.width)] * 2 + [(self.width * kv // heads, self.width)] * 2 + [(inner, self.width)] * gated
        self.block = sum(out * into for out, into in self.linears)
        self.added = RANK * sum(out + into for out, into in self.linears)
        self.head = config["vocab_size"] * self.width

    def attention(self, lengths):
        """Of one block, forward."""
        return sum(4 * length ** 2 * self.width for length in lengths) / (2 if self.causal else 1)


def trained(case, shape, facts, cached):
    """Of the program's phases."""
    tokens, attention = facts["tokens"], shape.attention(facts["lengths"])
    total = 0
    for phase in case.phases:
        above = shape.blocks - phase.frozen_blocks
        weights = shape.added if case.adapter else shape.block
        kept = cached and phase.frozen_blocks > 0 and phase.epochs > 1
        frozen_passes = 1 if kept else phase.epochs
        forward = 2 * shape.block * tokens + attention
        total += frozen_passes * phase.frozen_blocks * forward
        total += phase.epochs * above * (forward + 2 * attention + 2 * (shape.block + weights) * tokens)
        if case.adapter:
            total += phase.epochs * above * 4 * shape.added * tokens  # forward, and gradients of what it reads
        if case.task == "classification":
            total += phase.epochs * facts["loss_units"] * 6 * shape.width ** 2
        else:
            total += phase.epochs * facts["loss_units"] * (4 if case.adapter else 6) * shape.head
    return total


def window(case, inputs, precision, cached=False):
    shape, facts = Shape(inputs.model(case.model)), inputs.facts(case, precision)
    tokens, attention = facts["tokens"], shape.attention(facts["lengths"])
    if case.trains:
        return trained(case, shape, facts, cached)
    forward = shape.blocks * (2 * shape.block * tokens + attention)
    if case.task == "embed":
        return forward
    new = case.batch * case.new_tokens
    return forward + new * 2 * (shape.blocks * shape.block + shape.head)
