"""Relative links in Markdown files lead to files of the project."""
import os
import re

LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def check(files):
    """files: {path: text}. Yields (path, line, message)."""
    known = set(files)
    for path in files:
        while path := os.path.dirname(path):
            known.add(path)
    for path, text in files.items():
        if not path.endswith(".md"):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for target in LINK.findall(line):
                if os.path.normpath(os.path.join(os.path.dirname(path), target)) not in known:
                    yield path, number, f"links to {target}, which does not exist"
