"""The options of script/bench. Imports nothing that must be installed first: what is wrong with them is said before anything is
downloaded or built.
"""
import argparse

import cases

QUICK = ("C2", "C6", "C8.1")
SWEEPS = ("threads", "lengths", "starts")


def several(known, what):
    """A type of argparse: names out of `known`, with commas between."""
    def names(text):
        found = [name for name in text.split(",") if name]
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {what} {name}; there are {', '.join(known)}")
        return found
    return names


def parse(required=(), description=None):
    """`required`: paths that script/bench adds."""
    parser = argparse.ArgumentParser(prog="script/bench", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for path in required:
        parser.add_argument("--" + path, required=True)
    parser.add_argument("--cases", default="", help="names with commas between; C8 means all of C8")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--precision", default="both", choices=(*cases.PRECISIONS, "both"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sweeps", type=several(SWEEPS, "sweep"), default=[], help="threads, lengths, starts: these instead of cases")
    parser.add_argument("--variant", type=several(("compile", "base_bf16", "pack"), "variant"), default=[],
                        help="options of peers/peer.py, to find out how a peer is tuned best: compile, base_bf16, pack")
    chosen = parser.parse_args()
    chosen.pairs = chosen.pairs or (2 if chosen.quick else 5)
    try:
        names = [name for name in chosen.cases.split(",") if name]
        chosen.cases = cases.chosen(names or (QUICK if chosen.quick else ()))
    except ValueError as problem:
        parser.error(str(problem))
    chosen.precisions = cases.PRECISIONS if chosen.precision == "both" else (chosen.precision,)
    chosen.variant = [f"--{name}" for name in chosen.variant]
    return chosen


if __name__ == "__main__":
    parse()
