"""What our side is asked for: the JobSpec of a case, as JSON and with everything resolved that a server would resolve."""
import cases

NEVER = 1_000_000  # steps between checkpoints


def selected(phase, name):
    return {"name": name, "selector": phase.selector, "learningRate": phase.learning_rate, "learningRateDecay": 1,
            "epochs": phase.epochs, "schedule": {"shape": "LINEAR"}, "optimizerState": "RESET"}


TASKS = {
    "classification": {"textClassification": {"textColumn": "text", "labelColumn": "label"}},
    "language_modeling": {"languageModeling": {"textColumn": "text", "layout": "PER_DOCUMENT"}},
    "completion": {"completion": {"promptColumn": "prompt", "completionColumn": "completion"}},
}


def training(case, precision, phases, batch, max_length):
    """AdamW and the rates of Trainer as it comes: no decay, clipped at 1, straight down to 0 over a phase."""
    spec = {
        **TASKS[case.task], "validationFraction": 0, "maxLength": max_length, "seed": cases.SEED, "maxGradNorm": 1,
        "optimizer": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weightDecay": 0},
        "batch": {"examplesPerStep": batch, "tokensPerMicroStep": 2048},
        "evaluation": {"keepBest": False, "everyEpochs": 1}, "checkpoint": {"everySteps": NEVER},
        "phases": [selected(phase, f"phase {i + 1}") for i, phase in enumerate(phases)],
        "output": "ADAPTER" if case.adapter else "FULL", **form(precision),
    }
    return {"training": spec}


def prediction(case, precision, new_tokens):
    task = ({"embed": {"textColumn": "text", "normalize": True}} if case.task == "embed" else
            {"generate": {"promptColumn": "prompt", "maxNewTokens": new_tokens, "ignoreEnd": True}})
    return {"prediction": {"dataset": "rows", "maxLength": case.max_length, **task, **form(precision)}}


def form(precision):
    """fp32 is the default, and not named: a trainer of before there was a choice measures just as well."""
    return {"precision": precision.upper()} if precision != "fp32" else {}
