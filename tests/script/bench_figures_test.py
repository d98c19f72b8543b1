"""What bench/ makes of windows: the order that a gate's peer is given, ratios pair by pair, cases that fit together, FLOPs,
what is kept, plots."""
import json
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import cases  # noqa: E402
import data_order  # noqa: E402
import flops  # noqa: E402
import options  # noqa: E402
import plot  # noqa: E402
import render  # noqa: E402
import spec  # noqa: E402
import summary  # noqa: E402
import sweeps  # noqa: E402


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
        entry = {"name": "C6", "precision": "bf16", "peer": "P2", "why": "the gate failed: 0.5"}
        self.assertEqual(summary.speed_row(entry)[:3], ["C6 bf16", "P2", "the gate failed: 0.5"])
        self.assertEqual(len(summary.rest_row(entry)), len(summary.REST))


BERT = {"model_type": "bert", "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
        "vocab_size": 10}
# A block has (4, 4) twice, (2, 4) twice, (6, 4) three times.
LLAMA = {**BERT, "model_type": "llama", "num_key_value_heads": 1, "intermediate_size": 6}
FACTS = {"tokens": 8, "lengths": [3, 5], "loss_units": 2}


class FlopsTest(unittest.TestCase):
    """Figures are computed by hand."""

    def shape(self, config):
        with tempfile.TemporaryDirectory() as directory:
            (pathlib.Path(directory) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            return flops.Shape(pathlib.Path(directory))

    def test_shapes_are_of_the_config(self):
        bert, llama = self.shape(BERT), self.shape(LLAMA)
        gpt2 = self.shape({"model_type": "gpt2", "n_embd": 4, "n_layer": 2, "n_head": 2, "n_inner": None, "vocab_size": 10})
        self.assertEqual([bert.block, bert.head, bert.attention([3, 5])], [4 * 16 + 2 * 32, 40, 4 * (9 + 25) * 4])
        self.assertEqual([llama.block, llama.head, llama.attention([3, 5])], [2 * 16 + 2 * 8 + 3 * 24, 40, 4 * (9 + 25) * 4 / 2])
        self.assertEqual(llama.added, 16 * (2 * (4 + 4) + 2 * (2 + 4) + 3 * (6 + 4)))
        self.assertEqual([gpt2.block, gpt2.causal], [4 * 16 + 2 * 64, True])

    def test_a_frozen_block_is_passed_once_where_it_is_kept(self):
        phase = cases.Phase({"last_blocks": 1}, "", 1e-3, epochs=3, frozen_blocks=1)
        case = types.SimpleNamespace(phases=(phase,), adapter="", task="classification")
        forward = 2 * 128 * 8 + 544
        trained = 3 * (forward + 2 * 544 + 2 * 2 * 128 * 8)
        head = 3 * 2 * 6 * 4 * 4
        self.assertEqual(flops.trained(case, self.shape(BERT), FACTS, cached=False), 3 * forward + trained + head)
        self.assertEqual(flops.trained(case, self.shape(BERT), FACTS, cached=True), forward + trained + head)

    def test_an_adapter_has_gradients_of_its_own_weights_alone(self):
        case = types.SimpleNamespace(phases=(cases.Phase(cases.ADDED, "lora_", 1e-3),), adapter="lora", task="completion")
        block = 2 * 120 * 8 + 272 + 2 * 272 + 2 * 120 * 8  # forward, attention's backward, gradients of inputs
        part = 6 * 928 * 8
        self.assertEqual(flops.trained(case, self.shape(LLAMA), FACTS, cached=False), 2 * (block + part) + 2 * 4 * 40)

    def test_every_new_token_passes_the_matrices_and_the_head(self):
        with tempfile.TemporaryDirectory() as directory:
            (pathlib.Path(directory) / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
            inputs = types.SimpleNamespace(model=lambda name: pathlib.Path(directory), facts=lambda case, which: FACTS)
            case = types.SimpleNamespace(model="llama", trains=False, task="generate", batch=1, new_tokens=3)
            prompt = 2 * (2 * 120 * 8 + 272)
            self.assertEqual(flops.window(case, inputs, "fp32"), prompt + 3 * 2 * (2 * 120 + 40))
            case.task = "embed"
            self.assertEqual(flops.window(case, inputs, "fp32"), prompt)


class KeptTest(unittest.TestCase):
    def result(self, date, *entries, **sweeps):
        return {"date": date, "sweeps": sweeps,
                "cases": [{"name": name, "precision": precision, **rest} for name, precision, rest in entries]}

    def test_the_newest_of_each_counts_and_fp32_comes_first(self):
        results = [self.result("2026-02", ("C2", "bf16", {"figures": 3}), ("C1", "bf16", {"figures": 4}), starts=[2]),
                   self.result("2026-01", ("C2", "bf16", {"figures": 1}), ("C2", "fp32", {"figures": 2}), starts=[1], threads=[1])]
        entries, swept = render.newest(results)
        self.assertEqual([(entry["name"], entry["precision"], entry["figures"]) for entry in entries],
                         [("C2", "fp32", 2), ("C1", "bf16", 4), ("C2", "bf16", 3)])
        self.assertEqual(swept, {"starts": [2], "threads": [1]})

    def test_a_failed_gate_takes_the_place_of_no_figures(self):
        good, failed = ("C2", "fp32", {"figures": 1}), ("C2", "fp32", {"why": "the gate failed"})
        for results in ([good, failed], [failed, good], [failed, good, failed]):
            entries, _ = render.newest([self.result(str(date), entry) for date, entry in enumerate(results)])
            self.assertEqual([entry.get("figures") for entry in entries], [1], results)
        entries, _ = render.newest([self.result("1", failed)])
        self.assertEqual([entry["why"] for entry in entries], ["the gate failed"])

    def test_only_what_is_between_the_marks_is_replaced(self):
        page = "a\n<!-- measured: x -->\nold\n<!-- end: x -->\nb\n<!-- measured: y -->\n<!-- end: y -->\n"
        replaced = render.replace(page, "x", r"new \1")
        self.assertEqual(replaced, page.replace("old", r"new \1"))
        self.assertEqual(render.replace(replaced, "x", "old"), page)
        with self.assertRaisesRegex(AssertionError, "measured: z"):
            render.replace(page, "z", "")

    def test_options_are_refused_before_anything_is_made(self):
        for given, says in ((["--quick", "--keep"], "leave out --keep"), (["--keep", "--trainer", "other"], "leave out --keep"),
                              (["--keep", "--variant", "compile"], "leave out --keep"), (["--trainer"], "--trainer needs a path"),
                              (["--cases", "C99"], "no case C99; there are C1,"), (["--sweeps", "typo"], "no sweep typo; there are"),
                              (["--variant", "x"], "no variant x; there are"), (["--precision", "fp16"], "fp16")):
            refused = subprocess.run([ROOT / "script/bench", *given], capture_output=True, text=True, check=False, timeout=50)
            self.assertNotEqual(refused.returncode, 0, given)
            self.assertIn(says, refused.stderr)
            self.assertEqual(refused.stdout, "")

    def test_every_sweep_has_its_name_among_the_options(self):
        self.assertEqual(sorted(options.SWEEPS), sorted(sweeps.SWEEPS))


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
