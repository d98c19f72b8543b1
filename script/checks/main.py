"""Runs all checks over the files that git knows or would add: called by script/lint, from the root."""
import os
import subprocess
import sys

import includes
import links
import protos
import sizes
import words


def read_files():
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                           check=True, capture_output=True, text=True).stdout.split("\0")
    files = {}
    for name in sorted(set(names)):
        if os.path.isfile(name):
            try:
                with open(name, encoding="utf-8") as file:
                    files[name] = file.read()
            except UnicodeDecodeError:
                pass  # weights and other binary data
    return files


def main():
    files = read_files()
    complaints = [*includes.check(files), *sizes.check(files), *words.check(files), *links.check(files)]
    names = [path.removeprefix("proto/") for path in files if path.startswith("proto/") and path.endswith(".proto")]
    deps = os.environ.get("THAW_DEPS", os.path.expanduser("~/.cache/thaw"))
    if names:
        complaints += protos.check("proto", names, [f"{deps}/googleapis"])
    for path, line, message in complaints:
        print(f"{path}:{line}: {message}")
    for line in sizes.report(files):
        print(line)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
