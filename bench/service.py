#!/usr/bin/env python3
"""Loads a thawd of its own, on loopback, and prints what it did: docs/performance.md says what is expected of it.

  service.py [--bin build/bin] [submits] [dispatch] [watch] [transfer] [growth] [fleet]

submits   submits a second with 32 in flight
dispatch  a submit to the assignment of an idle worker; with a long queue, its Sync to the assignment
watch     an event's commit to the last of 1,000 watchers
transfer  a model up and down again, hashed by both ends
growth    the store's bytes for a job and for a million metric points
fleet     1,000 simulated workers and 100,000 jobs: about a quarter of an hour; --jobs and --seconds make it less

Every part has a server with fresh directories under TMPDIR, which are removed. CPU seconds are the server's own; other
work on the machine makes all times longer, so the load is printed beside them.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("parts", nargs="*", choices=("submits", "dispatch", "watch", "transfer", "growth", "fleet", []), default=[])
parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("build/bin"), help="programs")
parser.add_argument("--thawd", type=pathlib.Path, help="another server than the one in --bin")
parser.add_argument("--jobs", type=int, default=100_000, help="of fleet")
parser.add_argument("--workers", type=int, default=1000, help="of fleet")
parser.add_argument("--seconds", type=float, default=900, help="of fleet, at most, without submitting")
parser.add_argument("--megabytes", type=int, default=1000, help="of transfer")
args = parser.parse_args()
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """One thawd with directories of its own; use as a context manager."""

    def __enter__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="thaw-bench-"))
        self.data = self.directory / "data"
        ports = self.directory / "ports.json"
        with open(self.directory / "thawd.log", "wb") as log:
            self.process = subprocess.Popen(
                [args.thawd or args.bin / "thawd", "--listen", "127.0.0.1:0", "--metrics_listen", "127.0.0.1:0",
                 "--data_dir", self.data, "--port_file", ports, "--log_level", "error"], stderr=log)
        while not ports.exists():
            if self.process.poll() is not None:
                raise SystemExit((self.directory / "thawd.log").read_text())
            time.sleep(0.02)
        written = json.loads(ports.read_text())
        self.address, self.metrics_address = written["listen"], written["metrics_listen"]
        return self

    def __exit__(self, *unused):
        self.stop()
        shutil.rmtree(self.directory)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mib(self, name):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(name + r":\s+(\d+)", status)[1]) / 1024

    def store_bytes(self):
        return sum(path.stat().st_size for path in self.data.glob("jobs.db*") if not path.name.endswith("-shm"))

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=60) as answer:
            return answer.read().decode()

    def quantiles(self, name, label=""):
        """Count, and the bounds below which half, 99 of a hundred, and all of a histogram's observations lie."""
        pattern = re.compile(name + r"_bucket\{(.*)le=\"([^\"]+)\"\} (\d+)")
        buckets = [(float(bound.replace("+Inf", "inf")), int(count)) for labels, bound, count in
                   pattern.findall(self.metrics()) if label in labels]
        if not buckets or buckets[-1][1] == 0:
            return "no observation"
        total = buckets[-1][1]
        below = [next(bound for bound, count in buckets if count >= share * total) for share in (0.5, 0.99, 1)]
        over = " ".join(f"{count}<={bound * 1000:g}ms" for bound, count in buckets)
        return f"{total} in all; half within {below[0] * 1000:g} ms, 99 % within {below[1] * 1000:g} ms, all within " \
               f"{below[2] * 1000:g} ms ({over})"

    def run(self, program, *flags):
        """A load program beside this server; what both took."""
        cpu, start = self.cpu_seconds(), time.monotonic()
        print(f"$ {program} {' '.join(map(str, flags))}   (load {os.getloadavg()[0]:.1f})", flush=True)
        subprocess.run([args.bin / program, "--server", self.address, "--data_dir", self.data, *map(str, flags)], check=True)
        print(f"  server: CPU {self.cpu_seconds() - cpu:.2f} s of {time.monotonic() - start:.2f} s, "
              f"memory {self.memory_mib('VmRSS'):.0f} MiB (peak {self.memory_mib('VmHWM'):.0f})", flush=True)


def submits():
    with Server() as server:
        server.run("thaw-bench-submit", "--connections", 32, "--seconds", 10, "--dispatches", 0)
        print("  commits:", server.quantiles("thaw_commit_seconds"))


def dispatch():
    with Server() as server:
        server.run("thaw-bench-submit", "--seconds", 0, "--dispatches", 50)
        server.run("thaw-bench-submit", "--connections", 32, "--seconds", 60, "--jobs", 20_000, "--dispatches", 0)
        server.run("thaw-bench-submit", "--seconds", 0, "--dispatches", 50)
        print("  scheduling:", server.quantiles("thaw_schedule_seconds"))


def watch():
    with Server() as server:
        server.run("thaw-bench-watch", "--watchers", 1000)


def transfer():
    with Server() as server:
        server.run("thaw-bench-transfer", "--dir", server.directory / "files", "--megabytes", args.megabytes)


def growth():
    """The same jobs with few and with many points; a server that has ended leaves no journal."""
    jobs, syncs, bytes_of = 2000, 3, {}
    for points in (0, 10, 100):
        with Server() as server:
            server.run("thaw-bench-submit", "--connections", 32, "--seconds", 60, "--jobs", jobs, "--dispatches", 0)
            if points:
                server.run("thaw-bench-fleet", "--workers", 100, "--seconds", 60, "--jobs", jobs, "--syncs_per_job", syncs,
                           "--points_per_sync", points)
            server.stop()
            bytes_of[points] = server.store_bytes()
    point = (bytes_of[100] - bytes_of[10]) / (jobs * syncs * 90)
    waiting = bytes_of[0] / jobs
    print(f"  store: {waiting:.0f} bytes a job that waits, {bytes_of[10] / jobs - 10 * syncs * point:.0f} one that has ended, "
          f"{point:.1f} MB a million metric points of eight values")


def fleet():
    with Server() as server:
        empty = server.store_bytes()
        server.run("thaw-bench-submit", "--connections", 32, "--seconds", 900, "--jobs", args.jobs, "--dispatches", 0)
        submitted = server.store_bytes()
        print(f"  store: {(submitted - empty) / args.jobs:.0f} bytes a job that waits")
        server.run("thaw-bench-fleet", "--workers", args.workers, "--seconds", args.seconds, "--jobs", args.jobs)
        print(f"  store: {server.store_bytes() / 1e6:.0f} MB after it")
        for name in ("thaw_sync_commit_seconds", "thaw_schedule_seconds", "thaw_commit_seconds"):
            print(f"  {name}:", server.quantiles(name))


for part in args.parts or ("submits", "dispatch", "watch", "transfer", "growth", "fleet"):
    print(f"== {part}", flush=True)
    {"submits": submits, "dispatch": dispatch, "watch": watch, "transfer": transfer, "growth": growth, "fleet": fleet}[part]()
