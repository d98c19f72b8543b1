"""Lengths of C++ files: a hard limit for each, targets for all together (printed, not enforced)."""
LIMIT = 600
TARGETS = {"headers": ((".h",), 90), "sources": ((".cc",), 160)}  # suffixes, highest median
HIGHEST_P90 = 400


def lines(text):
    return text.count("\n")


def check(files):
    """files: {path: text}. Yields (path, line, message)."""
    for path, text in files.items():
        if path.endswith((".h", ".cc", ".py", ".proto")) and lines(text) > LIMIT:
            yield path, lines(text), f"has {lines(text)} lines; the limit is {LIMIT}: split it"


def percentile(values, percent):
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def report(files):
    """One line each for headers and sources outside the tests: count, median, 90th percentile, longest."""
    result = []
    for kind, (suffixes, highest_median) in TARGETS.items():
        sizes = {path: lines(text) for path, text in files.items()
                 if path.endswith(suffixes) and not path.startswith(("tests/", "bench/"))}
        if not sizes:
            continue
        median, p90 = percentile(sizes.values(), 50), percentile(sizes.values(), 90)
        longest = max(sizes, key=sizes.get)
        verdict = "within" if median <= highest_median and p90 <= HIGHEST_P90 else "OVER"
        result.append(f"{kind}: {len(sizes)} files, median {median} lines (target {highest_median}), 90th percentile {p90} "
                      f"(target {HIGHEST_P90}), longest {sizes[longest]} ({longest}; limit {LIMIT}): {verdict} target")
    return result
