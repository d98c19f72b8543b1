#!/usr/bin/env python3
"""The peer of a case: transformers' Trainer with PEFT, its generate(), or a padded loop, told what to do line by line.

  peer.py --case NAME --precision fp32|bf16 --inputs DIR [--threads 2] [--compile] [--base_bf16] [--pack] …

Reads commands as JSON lines and answers each with one on standard output: {"do": "gate", …}, {"do": "prepare"} and then
{"do": "window"} as often as one likes; between them it waits, so that the runner can let both sides work in turn and read
this process's clocks. fp32 is P1, everything as it comes; bf16 is P2, the best that was found (cases.Case.tuned).
"""
import argparse
import json
import os
import pathlib
import sys

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--case", required=True)
parser.add_argument("--precision", required=True, choices=("fp32", "bf16"))
parser.add_argument("--inputs", required=True)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--compile", action="store_true", help="torch.compile")
parser.add_argument("--base_bf16", action="store_true", help="frozen weights of a LoRA model are loaded in bf16")
parser.add_argument("--pack", action="store_true", help="DataCollatorWithFlattening instead of padding")
args = parser.parse_args()
# The spinning of idle threads as our own trainer has it: with libgomp's default a busy machine harms the peer most.
os.environ.update(OMP_NUM_THREADS=str(args.threads), GOMP_SPINCOUNT="1000", RAYON_NUM_THREADS=str(args.threads),
                  TOKENIZERS_PARALLELISM="true", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error",
                  TQDM_DISABLE="1")
import torch  # noqa: E402  (the environment above must be set first)

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import cases  # noqa: E402


class Line:
    """Commands and answers. What libraries print goes to standard error."""

    def __init__(self):
        self.out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def answer(self, **values):
        self.out.write(json.dumps(values) + "\n")
        self.out.flush()

    def command(self):
        """The next command; ends the process when there is none."""
        text = sys.stdin.readline()
        if not text:
            os._exit(0)  # perhaps from the depth of a training
        return json.loads(text)


def main():
    torch.set_num_threads(args.threads)
    case, line = cases.by_name(args.case), Line()
    if case.trains:
        import training
        training.serve(case, args, line)
    else:
        import prediction
        prediction.serve(case, args, line)


if __name__ == "__main__":
    main()
