"""Words that have no place in a clone: paths of one machine, unfinished work, tests that do not run, registries."""
import re

RULES = [
    (r"(?<![\w./])/work/", "a path of somebody's machine"),
    (r"(?<![\w/-])(\.\./)*shared/", "a folder that no clone has"),
    (r"(?<![\w./])/(root|home/\w+|tmp/thaw)\b(?!/\.cache)", "a path of somebody's machine"),
    (r"\b(TODO|FIXME|XXX)\b", "unfinished work"),
    (r"\bDISABLED_|\bGTEST_SKIP\b", "a test that does not run"),
    (r"\b(pypi|pythonhosted|npmjs|yarnpkg|crates|(proxy|sum)\.golang|deb\.debian)\.(org|com|io)\b",
     "a package registry's host: which one is the machine's own setting"),
    (r"(?i)\bissue #?\d+\b", "the number of an issue"),
]
EXEMPT = ("script/checks/", "tests/script/", "tests/data/", "LICENSE")


def check(files):
    """files: {path: text}. Yields (path, line, message)."""
    rules = [(re.compile(pattern), what) for pattern, what in RULES]
    for path, text in files.items():
        if path.startswith(EXEMPT) or path.endswith("Cargo.lock"):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for pattern, what in rules:
                match = pattern.search(line)
                if match:
                    yield path, number, f'"{match.group(0).strip()}": {what}'
