#!/usr/bin/env python3
"""Makes text to pretrain a small language model on: plain_text.py MAIL.jsonl FORTUNES OUT_DIRECTORY

MAIL.jsonl is the corpus of script/mail_data.py, FORTUNES a directory of fortune files (texts between lines of "%"), such
as Debian's package fortunes has. Of a mail those lines stay that look like prose: no quotes, addresses, headers or tables.
Writes pretraining_train.jsonl and, of every fiftieth text, pretraining_validation.jsonl, rows {"text"}. Texts are in the
order of their sha1, and none is there twice.
"""
import hashlib
import json
import os
import pathlib
import re
import sys

SHORTEST_TEXT = 60  # characters
DRAWINGS = ("ascii-art",)
NOT_PROSE = re.compile(r"^\s*[>|#*=+<-]|https?://|www\.|[\w.]+@[\w.]+|^\s*\w[\w-]*:\s|[\ufffd{}\\]|[^\x20-\x7e]{3}|\S{30}")
WORD = re.compile(r"[A-Za-z']{2,}")


def is_prose(line):
    """Four words or more, and most of its characters in words."""
    words = WORD.findall(line)
    return len(words) >= 4 and sum(map(len, words)) >= 0.65 * len(line) and not NOT_PROSE.search(line)


def prose_of_mail(text):
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if is_prose(line))


def fortunes(directory):
    for path in sorted(pathlib.Path(directory).iterdir()):
        if path.is_file() and not path.suffix and path.name not in DRAWINGS:
            for text in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
                yield re.sub(r"\s+", " ", re.sub(r".\x08", "", text)).strip()


def key(text):
    return hashlib.sha1(re.sub(r"\W+", "", text.lower()).encode()).hexdigest()


def write(path, texts):
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    os.rename(path + ".part", path)
    print(f"{path}: {len(texts)} texts, {sum(map(len, texts))} characters")


def main(mail, fortune_directory, directory):
    texts = {}
    with open(mail, encoding="utf-8") as file:
        for line in file:
            text = prose_of_mail(json.loads(line)["text"])
            if len(text) >= SHORTEST_TEXT:
                texts.setdefault(key(text), text)
    for text in fortunes(fortune_directory):
        if len(text) >= SHORTEST_TEXT:
            texts.setdefault(key(text), text)
    os.makedirs(directory, exist_ok=True)
    ordered = [texts[each] for each in sorted(texts)]
    write(f"{directory}/pretraining_train.jsonl", [text for i, text in enumerate(ordered) if i % 50])
    write(f"{directory}/pretraining_validation.jsonl", ordered[::50])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
