"""script/recipes/plain_text.py: what of mails and fortunes is kept, and that the parts are disjoint and repeatable."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "script", "recipes", "plain_text.py")
PROSE = "The meeting has been moved to the large room on the second floor"


def make(mails, fortunes):
    """Texts of both parts."""
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/mail.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text, "label": 0}) + "\n" for text in mails)
        os.mkdir(f"{folder}/fortunes")
        for name, text in fortunes.items():
            with open(f"{folder}/fortunes/{name}", "w", encoding="utf-8") as file:
                file.write(text)
        subprocess.run([sys.executable, SCRIPT, f"{folder}/mail.jsonl", f"{folder}/fortunes", f"{folder}/out"], check=True,
                       capture_output=True)
        parts = []
        for name in ("train", "validation"):
            with open(f"{folder}/out/pretraining_{name}.jsonl", encoding="utf-8") as file:
                parts.append([json.loads(line)["text"] for line in file])
        return parts


class PlainText(unittest.TestCase):
    def check_mail(self, lines, expected):
        texts = sum(make(["\n".join(lines)], {}), [])
        self.assertEqual(texts, [expected] if expected else [])

    def test_prose_of_a_mail_stays(self):
        self.check_mail([PROSE, "", "and it begins at nine."], PROSE + " and it begins at nine.")
        for dropped in ("> as you wrote in the mail before this one", "see https://example.org/a for all the rest of it",
                        "write to somebody@example.org for all the rest of it", "From: the man who wrote this mail to you",
                        "=================", "12 45 67 a 1999 22", "| a table | has | bars |", "too short"):
            self.check_mail([PROSE, dropped], PROSE)
        self.check_mail(["Nothing here."], None)

    def test_fortunes(self):
        fortunes = {"wit": f"{PROSE},\n\tsaid he.\n%\nshort\n%\n{PROSE.upper()}, SAID HE!\n%\n{PROSE} again.\n",
                    "wit.dat": PROSE * 3, "ascii-art": PROSE * 2}
        train, validation = make([], fortunes)
        self.assertEqual(sorted(train + validation), [f"{PROSE} again.", f"{PROSE}, said he."])

    def test_parts(self):
        mails = [f"{PROSE}, and this is number {i} of them." for i in range(500)]
        train, validation = make(mails, {})
        self.assertEqual((len(train), len(validation)), (490, 10))
        self.assertEqual(set(train + validation), set(mails))
        self.assertEqual([train, validation], make(mails[::-1], {}))


if __name__ == "__main__":
    unittest.main()
