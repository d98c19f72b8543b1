#!/usr/bin/env python3
"""Makes the sentiment set of the demo: demo_data.py hutto_ICWSM_2014.tar.gz OUT_DIRECTORY

The archive (PyPI vaderSentiment 0.5, MIT) holds sentences of film reviews, shop reviews, tweets and editorials,
each with the mean of twenty human ratings from -4 to 4. Rows are {"text", "label", "score", "source"}; label is
1 for positive, 0 for negative, and a mean within half a point of neutral is left out. A row's key is the sha1 of
its letters and digits: it removes duplicates, gives a fixed random order and puts a fifth of all rows into the
test part. The other four fifths give 4,000 rows for training and 1,500 for choices between models.
"""
import hashlib
import json
import os
import re
import sys
import tarfile

FILES = {
    "movieReview": "movieReviewSnippets_GroundTruth.txt",
    "amazonReview": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "nytEditorial": "nytEditorialSnippets_GroundTruth.txt",
}
NEUTRAL = 0.5
TRAIN_ROWS = 4000
VALIDATION_ROWS = 1500


def read_rows(archive):
    """All rows, {key: row}; of duplicates the first one stays."""
    rows = {}
    for source, name in FILES.items():
        content = archive.extractfile(f"hutto_ICWSM_2014/{name}").read().decode("utf-8", "replace")
        for line in content.splitlines():
            fields = line.split("\t", 2)
            if len(fields) != 3:
                continue
            score, text = float(fields[1]), fields[2]
            if abs(score) < NEUTRAL:
                continue
            letters = re.sub(r"\W+", "", text.lower())
            key = hashlib.sha1(letters.encode()).hexdigest()
            if key not in rows:
                rows[key] = {"text": text.strip(), "label": int(score > 0),
                             "score": round(score, 4), "source": source}
    return rows


def is_test(key):
    return int(key[-8:], 16) % 5 == 0


def write(path, rows):
    with open(path + ".part", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.rename(path + ".part", path)
    print(f"{path}: {len(rows)} rows, {sum(row['label'] for row in rows)} positive")


def main(archive_path, directory):
    with tarfile.open(archive_path) as archive:
        rows = read_rows(archive)
    keys = sorted(rows)
    pool = [rows[key] for key in keys if not is_test(key)]
    test = [rows[key] for key in keys if is_test(key)]
    os.makedirs(directory, exist_ok=True)
    write(f"{directory}/sentiment_train.jsonl", pool[:TRAIN_ROWS])
    write(f"{directory}/sentiment_validation.jsonl", pool[TRAIN_ROWS:TRAIN_ROWS + VALIDATION_ROWS])
    write(f"{directory}/sentiment_test.jsonl", test)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: demo_data.py hutto_ICWSM_2014.tar.gz OUT_DIRECTORY")
    main(sys.argv[1], sys.argv[2])
