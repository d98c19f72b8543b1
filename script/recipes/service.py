"""A server and a worker for a recipe, and the `thaw` command to speak to them.

Both keep everything in one directory, so that a recipe that was interrupted goes on when it is started again: jobs are
submitted under request ids, and the server answers a repeated one with the job that it already has.
"""
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPENDENCIES = pathlib.Path(os.environ.get("THAW_DEPS", pathlib.Path.home() / ".cache" / "thaw"))
BINARIES = ROOT / "build" / "bin"
NOT_REACHED = 3  # the command's exit code
UNFINISHED = ("QUEUED", "STARTING", "RUNNING", "PAUSING", "PAUSED", "CANCELLING")


def bootstrap(*what):
    subprocess.run([ROOT / "script" / "bootstrap", *what], check=True)


class Results:
    """What came of a recipe: {row: {part: figures}} in a file, which is written anew with every part."""

    def __init__(self, path):
        self.path = path
        self.rows = json.loads(path.read_text()) if path.exists() else {}

    def has(self, row, part):
        return str(part) in self.rows.get(row, {})

    def of(self, row, part):
        return self.rows[row][str(part)]

    def keep(self, row, part, figures):
        self.rows.setdefault(row, {})[str(part)] = {
            name: round(value, 5) if isinstance(value, float) else value for name, value in figures.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".part")
        new.write_text(json.dumps(self.rows, indent=1, sort_keys=True) + "\n")
        new.rename(self.path)
        shown = ", ".join(f"{name} {figures[name]:.4g}" for name in ("accuracy", "perplexity", "seconds") if name in figures)
        print(f"{row}, {part}: {shown}".rstrip(": "), flush=True)


class Service:
    """thawd and thaw-worker, from `with` to its end. slots: jobs at a time; threads: of each job."""

    def __init__(self, home, slots, threads):
        self.home = pathlib.Path(home)
        self.slots = slots
        self.threads = threads
        self.programs = []

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that __exit__ ends what runs
        for name in ("thaw", "thawd", "thaw-worker", "thaw-trainer"):
            if not (BINARIES / name).exists():
                sys.exit(f"build/bin/{name} is missing: cmake --preset release && cmake --build --preset release")
        self.home.mkdir(parents=True, exist_ok=True)
        ports = self.home / "ports.json"
        ports.unlink(missing_ok=True)
        self._start("thawd", "--data_dir", self.home / "data", "--listen", "127.0.0.1:0", "--metrics_listen", "",
                    "--port_file", ports)
        while not ports.exists():
            if self.programs[0].poll() is not None:
                sys.exit(f"thawd ended; {self.home}/thawd.log says why")
            time.sleep(0.1)
        self.address = json.loads(ports.read_text())["listen"]
        self._start("thaw-worker", "--server", self.address, "--token_file", self.home / "data" / "worker_token",
                    "--work_dir", self.home / "worker", "--slots", self.slots, "--threads", self.threads)
        return self

    def _start(self, program, *flags):
        with open(self.home / f"{program}.log", "ab") as log:
            self.programs.append(subprocess.Popen([BINARIES / program, *map(str, flags)], stdout=log, stderr=log))

    def __exit__(self, *_):
        for program in reversed(self.programs):  # the worker first: it hands back what runs
            program.terminate()
            program.wait()

    def thaw(self, *arguments):
        """The objects that the command prints with --json."""
        command = [BINARIES / "thaw", *map(str, arguments), "--json", "--server", self.address, "--token_file",
                   self.home / "data" / "access_token"]
        for _ in range(10):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != NOT_REACHED:  # on a machine with other work a connection may take too long
                break
        if done.returncode:
            sys.exit(f"thaw {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def import_model(self, directory, name):
        self.thaw("model", "import", directory, "--name", name)

    def import_dataset(self, path, name, task, *flags):
        self.thaw("dataset", "import", path, "--name", name, "--task", task, *flags)

    def submit(self, spec, name):
        """Id of the job; the same name and spec give the same job."""
        text = json.dumps({"display_name": name, **spec}, indent=1)
        path = self.home / "specs" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
        digest = hashlib.sha1(text.encode()).hexdigest()[:12]
        request = f"{name[:50]}, {digest}"  # at most 64 bytes
        return self.thaw("submit", path, "--request_id", request)[-1]["id"]

    def job(self, job):
        return self.thaw("get", job)[-1]

    def ended(self, jobs):
        """Yields (key, job) of {key: job id} as they end, and takes them out; more may be put in meanwhile. A failed one ends
        the recipe."""
        while jobs:
            for key, id_ in list(jobs.items()):
                job = self.job(id_)
                if job["state"] in UNFINISHED:
                    continue
                if job["state"] != "SUCCEEDED":
                    failure = job.get("failure", {}).get("message") or job.get("state_reason")
                    sys.exit(f"{job['spec'].get('display_name')} ({id_}) {job['state']}: {failure}")
                del jobs[key]
                yield key, job
            time.sleep(1)

    def fetch(self, job, directory):
        self.thaw("fetch", job, "--to", directory)
