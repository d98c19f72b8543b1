"""The peers' trainings: Trainer as it comes, on the same rows, weights, rates and batches as ours."""
import json
import re
import tempfile

import cases
import torch
from encode import encode, pad
from peft import PeftModel
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithFlattening,
                          Trainer, TrainerCallback, TrainingArguments, set_seed)

WINDOWS = 1000  # more than anybody asks for: the schedule has to end somewhere


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def build(case, args, inputs, gate):
    """The model with its fresh parts, in training precision."""
    directory = inputs.model(case.model, gate)
    if case.task == "classification":
        return AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
    dtype = torch.bfloat16 if args.base_bf16 and case.adapter else torch.float32
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model.config.use_cache = False
    # By the name of its class alone Trainer counts GPT-2's first token among those that are predicted, and its loss is too low.
    model.loss_type = "ForCausalLM"
    if case.adapter:
        model = PeftModel.from_pretrained(model, inputs.adapter(case), is_trainable=True)
    return model


def thaw(model, phase):
    """Only what the phase trains has gradients. Of a LoRA model that is so already."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = bool(re.search(phase.trains, name))


class Order(torch.utils.data.Sampler):
    """Row numbers, given."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = numbers

    def __iter__(self):
        return iter(self.numbers)

    def __len__(self):
        return len(self.numbers)


class CountingTrainer(Trainer):
    """Trainer with a given order of rows that counts real tokens and keeps losses."""

    def __init__(self, order, **named):
        super().__init__(**named)
        self.order, self.tokens, self.losses = order, 0, []

    def _get_train_sampler(self, train_dataset=None):
        return Order(self.order)

    def training_step(self, model, inputs, *rest, **named):
        mask = inputs.get("attention_mask")
        self.tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        loss = super().training_step(model, inputs, *rest, **named)
        self.losses.append(float(loss))
        return loss


class Pauses(TrainerCallback):
    """Answers "prepare" after the first pass and "window" after every further one, and waits in between."""

    def __init__(self, line, warm_steps, steps):
        self.line, self.steps, self.next, self.trainer = line, steps, warm_steps, None

    def on_step_end(self, arguments, state, control, **unused):
        if state.global_step < self.next:
            return
        self.line.answer(tokens=self.trainer.tokens, steps=self.steps, loss=self.trainer.losses[-1])
        while self.line.command()["do"] == "prepare":
            self.line.answer()
        self.trainer.tokens = 0
        self.next = state.global_step + self.steps


class Training:
    """What a case's trainings have in common."""

    def __init__(self, case, args):
        self.case, self.args, self.inputs = case, args, cases.Inputs(args.inputs)
        self.tokenizer = AutoTokenizer.from_pretrained(self.inputs.model(case.model))

    def examples(self, which, max_length):
        return encode(self.case, read(self.inputs.data(self.case, which)), self.tokenizer, max_length)

    def trainer(self, model, examples, order, batch, phase, callbacks=()):
        thaw(model, phase)
        padding = self.tokenizer.pad_token_id or 0
        flatten = DataCollatorWithFlattening() if self.args.pack else None
        return CountingTrainer(
            order, model=model, train_dataset=examples, callbacks=list(callbacks),
            data_collator=flatten or (lambda rows: pad(rows, padding)),
            args=TrainingArguments(
                output_dir=tempfile.gettempdir(), use_cpu=True, per_device_train_batch_size=batch, num_train_epochs=1,
                learning_rate=phase.learning_rate, save_strategy="no", report_to="none", logging_strategy="no",
                disable_tqdm=True, seed=cases.SEED, remove_unused_columns=False, bf16=self.args.precision == "bf16",
                torch_compile=self.args.compile))

    def program(self, model, examples, orders, batch, phases):
        """The phases one after the other, a Trainer for each, as people write it. orders: of each pass."""
        orders, tokens, losses = iter(orders), 0, []
        for phase in phases:
            order = [number for _ in range(phase.epochs) for number in next(orders)]
            trainer = self.trainer(model, examples, order, batch, phase)
            trainer.train()
            tokens += trainer.tokens
            losses += trainer.losses
        return tokens, losses

    def gate(self, orders):
        model = build(self.case, self.args, self.inputs, gate=True)
        examples = self.examples("gate", self.case.gate_length)
        tokens, losses = self.program(model, examples, orders, self.case.gate_rows, self.case.gate_phases())
        return {"losses": losses, "tokens": tokens, "file_tokens": sum(len(example["input_ids"]) for example in examples)}


def passes(case, precision, rows, count):
    """Orders of so many passes: drawn anew for each by P1, batches of like length as they stand by P2."""
    for _ in range(count):
        yield list(range(rows)) if precision == "bf16" else torch.randperm(rows).tolist()


def serve(case, args, line):
    training = Training(case, args)
    examples = training.examples(args.precision, case.max_length)
    rows, precision = len(examples), args.precision
    command = line.command()
    while command["do"] == "gate":
        set_seed(cases.SEED)
        line.answer(**training.gate(command["orders"]))
        command = line.command()
    set_seed(cases.SEED)
    if not case.whole:
        # The first batches alone warm it up; from then on every window is a whole pass over the rows.
        warm = min(case.steps[precision], command["warm_steps"])
        order = list(range(warm * case.batch)) + [n for one in passes(case, precision, rows, WINDOWS) for n in one]
        pauses = Pauses(line, warm, case.steps[precision])
        model = build(case, args, training.inputs, gate=False)
        pauses.trainer = training.trainer(model, examples, order, case.batch, case.phases[0], [pauses])
        pauses.trainer.train()
        return
    while True:
        # Before each window fresh weights.
        model = build(case, args, training.inputs, gate=False)
        orders = list(passes(case, precision, rows, sum(phase.epochs for phase in case.phases)))
        line.answer()
        while line.command()["do"] == "prepare":
            line.answer()
        tokens, losses = training.program(model, examples, orders, case.batch, case.phases)
        line.answer(tokens=tokens, steps=len(losses), loss=losses[-1])
        line.command()  # "prepare" of the next
