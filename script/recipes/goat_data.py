#!/usr/bin/env python3
"""Makes arithmetic to learn and to be tested on, after the recipe of GOAT (arXiv 2305.14201, section 3):

  goat_data.py OUT.jsonl --rows N [--seed S] [--direct] [--part train|test] [--cells CELL...]

Rows are {"prompt", "completion", "cell"}. A prompt is an instruction in one of several wordings and "\\nAnswer: "; a completion
repeats the problem and ends with its answer: `37 + 5 = 42`, `-` and remainders likewise (`47 / 5 = 9 R 2`). Products of two
numbers with several digits each, and quotients by such numbers, are worked out on the way unless --direct is given:

  34 * 12 = 34 * (10 + 2) = 34 * 10 + 34 * 2 = 340 + 68 = 408
  975 / 31: 975 - 31 * 30 = 975 - 930 = 45
            45 - 31 * 1 = 45 - 31 = 14
            Therefore, 975 / 31 = 31 R 14

A cell is an operator with the digits of both sides: "add 3 2", "sub 1 1", "mul 2 2", "div 4 1" (four digits by one). Problems
are dealt to the two parts by a hash of what they say, a fifth to the test part, so that no part holds a problem of the
other, whatever its wording. The same arguments give the same bytes.
"""
import argparse
import hashlib
import json
import random

SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
WORDS = {"add": "plus", "sub": "minus", "mul": "times", "div": "divided by"}
NAMES = {"add": "the sum of {} and {}", "sub": "the difference of {} and {}", "mul": "the product of {} and {}",
         "div": "the quotient of {} and {}"}
# How a problem is asked; half of all prompts are the problem itself.
INSTRUCTIONS = ("What is {}?", "Compute {}", "Work out {}.", "Find {}.", "How much is {}?", "Tell me {}.", "Evaluate {}",
                "Please calculate {}.", "Solve {}", "Give the value of {}.", "{} = ?", "I need {}.")


def number(rng, digits):
    return rng.randrange(0 if digits == 1 else 10 ** (digits - 1), 10 ** digits)


def is_direct(a, b):
    """Products of which one factor has a single digit that is not 0."""
    return any(len(str(n).strip("0")) <= 1 for n in (a, b))


def quotient(a, b):
    if b == 0:
        return "undefined"
    return f"{a // b} R {a % b}" if a % b else str(a // b)


def answer(name, a, b):
    """What stands behind the last equals sign."""
    return {"add": lambda: str(a + b), "sub": lambda: str(a - b), "mul": lambda: str(a * b),
            "div": lambda: quotient(a, b)}[name]()


def product_chain(a, b):
    """Split the smaller factor by its digits, expand, multiply, add up term by term."""
    large, small = max(a, b), min(a, b)
    text = str(small)
    terms = [int(digit) * 10 ** (len(text) - 1 - i) for i, digit in enumerate(text) if digit != "0"]
    steps = [f"{a} * {b}", f"{large} * ({' + '.join(map(str, terms))})", " + ".join(f"{large} * {term}" for term in terms)]
    left = [large * term for term in terms]
    steps.append(" + ".join(map(str, left)))
    while len(left) > 1:
        left = [left[0] + left[1], *left[2:]]
        steps.append(" + ".join(map(str, left)))
    return " = ".join(steps)


def quotient_chain(a, b):
    """Slow division: a line for each digit of the quotient that is not 0."""
    lines, left, text = [], a, str(a // b)
    for i, digit in enumerate(text):
        if digit != "0":
            part = int(digit) * 10 ** (len(text) - 1 - i)
            lines.append(f"{left} - {b} * {part} = {left} - {b * part} = {left - b * part}")
            left -= b * part
    return "\n".join([*lines, f"Therefore, {a} / {b} = {quotient(a, b)}"])


def completion(name, a, b, chains):
    if chains and name == "mul" and not is_direct(a, b):
        return product_chain(a, b)
    if chains and name == "div" and b >= 10 and a > b:
        return quotient_chain(a, b)
    if name == "div" and b == 0:
        return f"{a} / 0 is undefined"
    return f"{a} {SIGNS[name]} {b} = {answer(name, a, b)}"


def is_test(name, a, b):
    return hashlib.sha1(f"{name} {a} {b}".encode()).digest()[0] % 5 == 0


def problem(rng, name, left, right):
    """Two numbers of so many digits; of sums, differences and products the sides change places half of the time."""
    a, b = number(rng, left), number(rng, right)
    if name == "div":
        # Half of the divisions leave no rest, if that takes no digit away.
        if b and rng.random() < 0.5 and len(str(a - a % b)) == left:
            a -= a % b
    elif rng.random() < 0.5:
        a, b = b, a
    return a, b


def worded(rng, name, a, b):
    """The problem with the paper's noise, in an instruction."""
    draw = rng.random()
    if draw < 0.05:
        text = NAMES[name].format(a, b)
    elif draw < 0.15:
        text = f"{a} {WORDS[name]} {b}"
    else:
        sign = "x" if name == "mul" and rng.random() < 0.5 else SIGNS[name]
        text = f"{a} {sign} {b}" if rng.random() < 0.5 else f"{a}{sign}{b}"
    return text if rng.random() < 0.5 else rng.choice(INSTRUCTIONS).format(text)


def rows(seed, cells, chains=True, test=False):
    """Endless rows, the cells drawn alike."""
    rng = random.Random(f"{seed} {'test' if test else 'train'}")
    while True:
        cell = rng.choice(cells)
        name, left, right = cell.split()
        a, b = problem(rng, name, int(left), int(right))
        if is_test(name, a, b) != test:
            continue
        yield {"prompt": worded(rng, name, a, b) + "\nAnswer: ", "completion": completion(name, a, b, chains), "cell": cell}


def test_rows(seed, cells, per_cell, chains=True):
    """Up to per_cell different problems of each cell, fewer where fewer are found in 50 draws of each."""
    made = []
    for cell in cells:
        found = {}
        for _, row in zip(range(50 * per_cell), rows(f"{seed} {cell}", [cell], chains, test=True)):
            found.setdefault(row["completion"], row)
            if len(found) == per_cell:
                break
        made.extend(found.values())
    return made


def write(path, made):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in made)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--rows", type=int, required=True, metavar="N", help="rows; of the test part: of each cell")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--direct", action="store_true", help="nothing is worked out on the way")
    parser.add_argument("--part", choices=("train", "test"), default="train")
    parser.add_argument("--cells", nargs="+", metavar="CELL", default=["add 2 2", "sub 2 2", "mul 2 2", "div 3 1", "div 4 2"])
    arguments = parser.parse_args()
    if arguments.part == "test":
        made = test_rows(arguments.seed, arguments.cells, arguments.rows, not arguments.direct)
    else:
        made = [row for _, row in zip(range(arguments.rows), rows(arguments.seed, arguments.cells, not arguments.direct))]
    write(arguments.out, made)
    print(f"{arguments.out}: {len(made)} rows")


if __name__ == "__main__":
    main()
