"""What is measured: each case with what both sides need to do the same work. Imports nothing that only one side has.

A case is a model directory and a data file, which inputs.py makes, and either a program of phases or a prediction. Ours
get it as a JobSpec (spec.py), the peers as arguments of Trainer, generate or a loop (peers/).
"""
import dataclasses
import json
import pathlib

PRECISIONS = ("fp32", "bf16")
# Of ten steps' losses, of embeddings, of how much less probable (in nats) a token is than the peer's choice.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
PEERS = {"fp32": "P1", "bf16": "P2"}
GATE_STEPS = 10
SEED = 42


@dataclasses.dataclass(frozen=True)
class Phase:
    """What trains, once in our words and once as an expression that names of transformers' parameters contain."""
    selector: dict
    trains: str
    learning_rate: float
    epochs: int = 1
    frozen_blocks: int = 0  # blocks below the lowest that trains


@dataclasses.dataclass(frozen=True)
class Goal:
    """What to reach: so many times the peer's speed with at most this share of its memory."""
    speed: float
    memory: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    title: str
    task: str  # classification, language_modeling, completion, embed or generate
    model: str
    data: str  # mail, long_mail (of max_length tokens and more), goat or sentiment
    batch: int  # examples a step; embed: of the peer's loop; generate: prompts
    max_length: int
    rows: dict  # by precision: rows of a window, whole batches
    goals: dict
    phases: tuple = ()
    adapter: str = ""
    # A window is the whole program from fresh weights, with nothing kept from before; otherwise one pass over the rows
    # in a training that goes on.
    whole: bool = False
    gate_rows: int = 2  # of a step
    gate_epochs: int = 1
    gate_length: int = 64
    unit: str = "cpu_second"  # what the goal's speed is per: "second" where memory's speed is the bound
    new_tokens: int = 0
    # How the peer is tuned (P2) beyond bf16 and batches of like length: what was measured to win.
    tuned: dict = dataclasses.field(default_factory=dict)

    @property
    def trains(self):
        return self.task in ("classification", "language_modeling", "completion")

    @property
    def steps(self):
        """Optimizer steps of a pass over the rows, by precision."""
        return {precision: rows // self.batch for precision, rows in self.rows.items()}

    def gate_phases(self):
        """The program in GATE_STEPS steps: every phase has its share of the passes."""
        if len(self.phases) == 1:
            return (dataclasses.replace(self.phases[0], epochs=self.gate_epochs),)
        assert self.gate_epochs == len(self.phases)
        return tuple(dataclasses.replace(phase, epochs=1) for phase in self.phases)

    def gate_passes(self):
        """(rows of the gate's file, passes over them): GATE_STEPS steps of gate_rows rows in all."""
        return self.gate_rows * GATE_STEPS // self.gate_epochs, self.gate_epochs


def everything(rate, epochs=1):
    return Phase({"everything": True}, "", rate, epochs)


def last(blocks, of, rate, epochs=1):
    """The head and the last blocks of a BERT classifier."""
    trains = "|".join(["pooler", "classifier", *(rf"layer\.{block}\." for block in range(of - blocks, of))])
    selector = {"last_blocks": blocks} if blocks else {"head_only": True}
    return Phase(selector, trains, rate, epochs, of - blocks)


ADDED = {"kind": "ADDED_PARTS"}
PAIR = {"fp32": 8, "bf16": 8}  # two steps of four rows

CASES = (
    Case("C1", "full fine-tuning, GPT-2 124M shapes, 4 x 256 tokens", "language_modeling", "gpt2-124m", "long_mail", 4, 256,
         PAIR, {"fp32": Goal(1.35, .60), "bf16": Goal(1.45, .60)}, (everything(5e-5),)),
    Case("C2", "LoRA of rank 16 on all linear layers, SmolLM2-135M, 4 x 256 tokens", "language_modeling", "smollm2", "long_mail",
         4, 256, PAIR, {"fp32": Goal(1.45, .40), "bf16": Goal(1.75, .40)}, (Phase(ADDED, "lora_", 2e-4),),
         adapter="smollm2-lora16", tuned={"base_bf16": True, "compile": True}),
    Case("C3", "arithmetic worked out (GOAT's mix), LoRA of rank 16, SmolLM2-135M, 16 examples a step", "completion", "smollm2",
         "goat", 16, 512, {"fp32": 32, "bf16": 64}, {"fp32": Goal(4.4, .15), "bf16": Goal(1.95, .15)},
         (Phase(ADDED, "lora_", 3e-4),), adapter="smollm2-lora16", gate_length=96, tuned={"base_bf16": True}),
    Case("C4", "the top 25 % (3 of 12 blocks and the head), BERT-base shapes, up to 128 tokens, 5 epochs", "classification",
         "bert-base", "mail", 16, 128, {"fp32": 32, "bf16": 32}, {"fp32": Goal(2.6, .50), "bf16": Goal(2.6, .50)},
         (last(3, 12, 5e-5, 5),), whole=True, gate_epochs=5),
    Case("C5", "frozen MiniLM and a linear head, up to 256 tokens, 10 epochs", "classification", "minilm-classifier", "mail",
         16, 256, {"fp32": 32, "bf16": 32}, {"fp32": Goal(30, .60), "bf16": Goal(35, .60)},
         (Phase({"name_pattern": r"classifier\..*"}, "classifier", 1e-3, 10, 6),), whole=True, gate_epochs=5),
    Case("C6", "full fine-tuning of MiniLM on mail, 16 x up to 256 tokens", "classification", "minilm-classifier", "mail", 16,
         256, {"fp32": 64, "bf16": 64}, {"fp32": Goal(2.4, .35), "bf16": Goal(2.3, .35)}, (everything(5e-5),)),
    Case("C7", "gradual unfreezing of MiniLM on sentences, 5 phases of one epoch", "classification", "minilm-classifier",
         "sentiment", 16, 128, {"fp32": 160, "bf16": 160}, {"fp32": Goal(3, .40), "bf16": Goal(3, .40)},
         (last(0, 6, 1e-3), last(2, 6, 5e-4), last(4, 6, 2e-4), last(6, 6, 1e-4), everything(1e-4)), whole=True,
         gate_epochs=5),
    Case("C8.1", "greedy text of SmolLM2-135M after one prompt, 64 tokens", "generate", "smollm2", "prompts", 1, 512,
         {"fp32": 1, "bf16": 1}, {"fp32": Goal(3.1), "bf16": Goal(5.3)}, unit="second", new_tokens=64),
    Case("C8.8", "greedy text of SmolLM2-135M after 8 prompts at once, 64 tokens each", "generate", "smollm2", "prompts", 8, 512,
         {"fp32": 8, "bf16": 8}, {"fp32": Goal(3), "bf16": Goal(3)}, unit="second", new_tokens=64),
    Case("C9", "vectors of 2,000 mails by MiniLM, up to 256 tokens; the peer sorts by length and pads", "embed", "minilm",
         "mail", 32, 256, {"fp32": 2000, "bf16": 2000}, {"fp32": Goal(2.2), "bf16": Goal(2)}),
)


def chosen(names):
    """Cases whose names, or what stands before a dot in them, are in the list; none: all."""
    if not names:
        return list(CASES)
    known = {key for case in CASES for key in (case.name, case.name.split(".")[0])}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no case {', '.join(unknown)}; there are {', '.join(case.name for case in CASES)}")
    return [case for case in CASES if {case.name, case.name.split(".")[0]} & set(names)]


def by_name(name):
    return next(case for case in CASES if case.name == name)


class Inputs:
    """Where inputs.py puts what both sides read."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def model(self, name, gate=False):
        """Of the gate: without dropout."""
        return self.directory / "models" / (name + ("-gate" if gate else ""))

    def adapter(self, case):
        return self.directory / "adapters" / case.adapter if case.adapter else None

    def data(self, case, which):
        """`which`: fp32, bf16 (rows of a window) or gate."""
        return self.directory / "data" / f"{case.name}_{which}.jsonl"

    def facts(self, case, which):
        """lengths of the rows in tokens, loss_units, what share of random batches is no padding …"""
        return json.loads(self.data(case, which).with_suffix(".json").read_text(encoding="utf-8"))
