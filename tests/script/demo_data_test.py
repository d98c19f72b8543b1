"""script/demo_data.py on a small archive: which rows it keeps, and that the parts are disjoint and repeatable."""
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "script", "demo_data.py")


def make_archive(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            data = text.encode()
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def make_parts(files):
    with tempfile.TemporaryDirectory() as folder:
        make_archive(f"{folder}/archive.tar.gz", files)
        subprocess.run([sys.executable, SCRIPT, f"{folder}/archive.tar.gz", f"{folder}/out"], check=True, capture_output=True)
        parts = {}
        for name in ("train", "validation", "test"):
            with open(f"{folder}/out/sentiment_{name}.jsonl", encoding="utf-8") as file:
                parts[name] = [json.loads(line) for line in file]
        return parts


class DemoData(unittest.TestCase):
    EMPTY = {"movieReviewSnippets": "", "amazonReviewSnippets": "", "tweets": "", "nytEditorialSnippets": ""}

    def test_rows(self):
        files = dict(self.EMPTY)
        files["movieReviewSnippets"] = "1\t2.5\tA fine film.\n2\t-0.49\tIt runs.\nbroken line\n3\t-3\tAwful\tand long\n"
        files["tweets"] = "1\t1\ta FINE film\n2\t0.5\tOkay \n"
        rows = sorted((row for part in make_parts(files).values() for row in part), key=lambda row: row["score"])
        self.assertEqual(rows, [
            {"text": "Awful\tand long", "label": 0, "score": -3.0, "source": "movieReview"},
            {"text": "Okay", "label": 1, "score": 0.5, "source": "tweets"},
            {"text": "A fine film.", "label": 1, "score": 2.5, "source": "movieReview"},
        ])

    def test_parts(self):
        files = dict(self.EMPTY)
        files["tweets"] = "".join(f"{i}\t{i % 2 * 4 - 2}\tsentence number {i}\n" for i in range(8000))
        parts = make_parts(files)
        self.assertEqual(len(parts["train"]), 4000)
        self.assertEqual(len(parts["validation"]), 1500)
        self.assertTrue(1450 < len(parts["test"]) < 1750, len(parts["test"]))
        texts = [row["text"] for part in parts.values() for row in part]
        self.assertEqual(len(texts), len(set(texts)))
        self.assertEqual(parts, make_parts(files))


if __name__ == "__main__":
    unittest.main()
