"""What bench/ makes of windows: the order that a gate's peer is given, ratios pair by pair, cases that fit together, plots."""
import pathlib
import sys
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import cases  # noqa: E402
import data_order  # noqa: E402
import plot  # noqa: E402
import spec  # noqa: E402
import summary  # noqa: E402


def window(tokens, cpu, seconds):
    return {"tokens": tokens, "cpu_seconds": cpu, "seconds": seconds, "steps": 1}


class OrderTest(unittest.TestCase):
    def test_is_the_trainers(self):
        # As recorded in tests/worker/data/data_order_test.cc.
        self.assertEqual(data_order.order(10, 0, 0), [9, 5, 3, 2, 6, 8, 0, 7, 1, 4])
        self.assertEqual(data_order.order(10, 1, 5), [1, 0, 5, 9, 7, 4, 8, 3, 6, 2])

    def test_has_every_row_once(self):
        self.assertEqual(sorted(data_order.order(777, 42, 3)), list(range(777)))


class CasesTest(unittest.TestCase):
    def test_windows_are_whole_batches(self):
        for case in cases.CASES:
            if case.task != "embed":
                self.assertEqual([rows % case.batch for rows in case.rows.values()], [0, 0], case.name)

    def test_gates_have_their_steps(self):
        for case in cases.CASES:
            if case.trains:
                rows, passes = case.gate_passes()
                self.assertEqual(sum(phase.epochs for phase in case.gate_phases()), passes, case.name)
                self.assertEqual(rows // case.gate_rows * passes, cases.GATE_STEPS, case.name)

    def test_a_name_chooses_its_variants(self):
        self.assertEqual([case.name for case in cases.chosen(["C8", "C2"])], ["C2", "C8.1", "C8.8"])
        with self.assertRaises(ValueError):
            cases.chosen(["C2", "C99"])

    def test_only_bf16_is_asked_for_by_name(self):
        case = cases.by_name("C6")
        self.assertNotIn("precision", spec.training(case, "fp32", case.phases, 16, 256)["training"])
        self.assertEqual(spec.training(case, "bf16", case.phases, 16, 256)["training"]["precision"], "BF16")


class SummaryTest(unittest.TestCase):
    def test_ratios_are_of_pairs(self):
        pairs = [(window(300, 1, 2), window(100, 1, 1)), (window(200, 1, 1), window(100, 1, 1)), (window(800, 2, 1), window(50, 1, 1))]
        figures = summary.summarize(cases.by_name("C6"), "fp32", pairs, (300 << 20, 1000 << 20), (1e9, 2e9), 10)
        self.assertEqual(figures["ratio"]["cpu_second"], {"median": 3, "low": 2, "high": 8})
        self.assertEqual(figures["ratio"]["second"], {"median": 2, "low": 1.5, "high": 16})
        self.assertEqual(figures["memory"], 0.3)
        self.assertEqual(figures["reached"], {"speed": True, "memory": True})
        self.assertEqual(figures["peer"]["flop_share"], 0.2)
        self.assertEqual(figures["ours"]["flop_share"], 0.1)

    def test_a_case_that_was_not_measured_says_why(self):
        entry = {"name": "C6", "precision": "bf16", "peer": "P2", "why": "not supported by this trainer"}
        self.assertEqual(summary.speed_row(entry)[:3], ["C6 bf16", "P2", "not supported by this trainer"])
        self.assertEqual(len(summary.rest_row(entry)), len(summary.REST))


class PlotTest(unittest.TestCase):
    def test_axes_end_at_round_numbers(self):
        self.assertEqual([plot.round_up(value) for value in (1, 1.1, 210, 0.07)], [1, 2, 500, 0.1])

    def test_plots_are_well_formed(self):
        bars = plot.bars("a < b", "tokens", [("P1", "peer", {"median": 5, "low": 4, "high": 6}, "1 MiB")])
        lines = plot.lines("title", "x", "y", [("fp32", "ours", [(128, 2.0), (8192, 3.0)])])
        for drawn in (bars, lines):
            xml.etree.ElementTree.fromstring(drawn)


if __name__ == "__main__":
    unittest.main()
