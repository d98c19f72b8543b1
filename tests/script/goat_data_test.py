"""script/recipes/goat_data.py: every equation that it writes is true, digits are as asked, nothing of the test part is trained
on, the same seed gives the same rows; and how answers are read and scored."""
import ast
import itertools
import operator
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "script", "recipes"))
import goat  # noqa: E402
import goat_data  # noqa: E402

CELLS = ["add 3 2", "add 1 1", "sub 2 2", "sub 3 1", "mul 1 1", "mul 4 1", "mul 2 2", "mul 3 2", "mul 4 4", "div 1 1", "div 4 1",
         "div 4 2", "div 6 3"]
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
QUOTIENT = re.compile(r"(?:Therefore, )?(\d+) / (\d+) = (\d+)(?: R (\d+))?")


def value(text):
    """Of sums, differences and products of integers."""
    def of(node):
        if isinstance(node, ast.BinOp):
            return OPERATIONS[type(node.op)](of(node.left), of(node.right))
        if isinstance(node, ast.UnaryOp):
            return -of(node.operand)
        return node.value
    return of(ast.parse(text.strip(), mode="eval").body)


def take(count, *arguments, **more):
    return list(itertools.islice(goat_data.rows(*arguments, **more), count))


class GoatData(unittest.TestCase):
    def check_completion(self, text):
        for line in text.split("\n"):
            quotient = QUOTIENT.fullmatch(line)
            if quotient:
                a, b, whole, rest = (int(group or 0) for group in quotient.groups())
                self.assertEqual(a, b * whole + rest, line)
                self.assertLess(rest, b, line)
            elif line.endswith("/ 0 is undefined"):
                continue
            else:
                sides = [value(side) for side in line.split(" = ")]
                self.assertGreater(len(sides), 1, line)
                self.assertEqual(set(sides), {sides[0]}, line)

    def test_every_equation_is_true(self):
        for chains in (True, False):
            for row in take(3000, 7, CELLS, chains=chains):
                with self.subTest(row=row):
                    self.check_completion(row["completion"])

    def test_chains(self):
        def check(name, a, b, expected):
            self.assertEqual(goat_data.completion(name, a, b, True), expected)
        check("mul", 12, 34, "12 * 34 = 34 * (10 + 2) = 34 * 10 + 34 * 2 = 340 + 68 = 408")
        check("mul", 397, 4429, "397 * 4429 = 4429 * (300 + 90 + 7) = 4429 * 300 + 4429 * 90 + 4429 * 7 = "
                                "1328700 + 398610 + 31003 = 1727310 + 31003 = 1758313")
        check("mul", 205, 31, "205 * 31 = 205 * (30 + 1) = 205 * 30 + 205 * 1 = 6150 + 205 = 6355")
        check("mul", 30, 34, "30 * 34 = 1020")
        check("mul", 0, 34, "0 * 34 = 0")
        check("div", 975, 31, "975 - 31 * 30 = 975 - 930 = 45\n45 - 31 * 1 = 45 - 31 = 14\nTherefore, 975 / 31 = 31 R 14")
        check("div", 31, 31, "31 / 31 = 1")
        check("div", 30, 31, "30 / 31 = 0 R 30")
        check("div", 47, 5, "47 / 5 = 9 R 2")
        check("div", 47, 0, "47 / 0 is undefined")
        check("sub", 5, 12, "5 - 12 = -7")

    def test_digits_are_those_of_the_cell(self):
        for cell in CELLS:
            name, left, right = cell.split()
            asked = {(int(left), int(right))} if name == "div" else {(int(left), int(right)), (int(right), int(left))}
            for row in take(200, 3, [cell], chains=False):
                a, b = re.findall(r"\d+", row["completion"])[:2]
                self.assertIn((len(a), len(b)), asked, row)
                self.assertEqual(row["cell"], cell)

    def test_repeatable(self):
        first = take(500, 1, CELLS)
        self.assertEqual(first, take(500, 1, CELLS))
        self.assertNotEqual(first, take(500, 2, CELLS))
        prompts = [row["prompt"] for row in first]
        self.assertEqual(prompts, [row["prompt"] for row in take(500, 1, CELLS, chains=False)])
        self.assertTrue(all(prompt.endswith("\nAnswer: ") for prompt in prompts))

    def test_no_problem_is_in_both_parts(self):
        trained = {row["completion"] for row in take(5000, 1, CELLS)}
        tested = goat_data.test_rows(1, CELLS, 50)
        self.assertFalse(trained & {row["completion"] for row in tested})
        self.assertEqual(len(tested), len({row["completion"] for row in tested}))
        self.assertEqual(sum(row["cell"] == "mul 2 2" for row in tested), 50)


class Scores(unittest.TestCase):
    def test_answers(self):
        for text, expected in (("12 * 34 = 340 + 68 = 408", "408"), ("408", "408"), ("The answer is 1,408.", "1408"),
                               ("12 plus 3 is 15", "15"), ("47 / 5 = 9 R 2", "9 R 2"), ("5 - 12 = -7", "-7"), ("", ""),
                               ("no idea", ""), ("5 / 0 is undefined", "undefined"), ("2 = 3 apples, not 4", "3")):
            self.assertEqual(goat.answer_of(text), expected, text)

    def test_cells(self):
        rows = [{"cell": "a", "completion": "1 + 1 = 2"}, {"cell": "a", "completion": "99 + 1 = 100"},
                {"cell": "b", "completion": "4 / 3 = 1 R 1"}]
        self.assertEqual(goat.score(rows, ["1 + 1 = 2", "= 110", "1 R 1"]), {
            "a": {"problems": 2, "exact_match": 0.5, "digit_match": 0.8333},
            "b": {"problems": 1, "exact_match": 1, "digit_match": 1}})


if __name__ == "__main__":
    unittest.main()
