"""Real thawd and thaw-worker for tests in Python: started on free ports in a temporary directory, ended by pid."""
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ["THAW_BIN"])


def wait_for(what, check, seconds=60):
    """Calls `check` until it gives something true, and gives that back; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = check()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}")


def make_stubs(directory):
    """Generates the Python stubs of proto/thaw/v1 with plain grpcio-tools and makes them importable."""
    directory.mkdir(parents=True, exist_ok=True)
    protos = sorted(str(path) for path in (ROOT / "proto/thaw/v1").glob("*.proto"))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"), f"--python_out={directory}",
                    f"--grpc_python_out={directory}", *protos], check=True)
    sys.path.insert(0, str(directory))


class Services:
    """A server and a worker; use as a context manager."""

    def __init__(self, trainer, server_flags=(), worker_flags=()):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="thaw-test-"))
        self.trainer, self.server_flags, self.worker_flags = trainer, list(server_flags), list(worker_flags)
        self.processes = []

    def __enter__(self):
        make_stubs(self.directory / "stubs")
        self.start_server()
        self.start_worker()
        return self

    def __exit__(self, *unused):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()

    def start(self, name, command):
        log = open(self.directory / f"{name}.log", "ab")
        self.processes.append(subprocess.Popen([str(part) for part in command], stdout=log, stderr=log))
        return self.processes[-1]

    def start_server(self):
        ports = self.directory / "ports.json"
        self.server = self.start("thawd", [BIN / "thawd", "--listen", "127.0.0.1:0", "--metrics_listen", "127.0.0.1:0",
                                           "--data_dir", self.directory / "data", "--port_file", ports,
                                           "--min_free_gigabytes", "0",  # how full this disk is, is not its matter
                                           *self.server_flags])
        wait_for("thawd to write its ports", lambda: ports.exists() or self.server.poll() is not None)
        if self.server.poll() is not None:
            raise AssertionError((self.directory / "thawd.log").read_text())
        written = json.loads(ports.read_text())
        self.address, self.metrics_address = written["listen"], written["metrics_listen"]
        self.token_file = self.directory / "data/access_token"

    def start_worker(self):
        self.worker = self.start("thaw-worker", [BIN / "thaw-worker", "--server", self.address, "--token_file",
                                                 self.directory / "data/worker_token", "--work_dir",
                                                 self.directory / "worker", "--trainer", self.trainer,
                                                 *self.worker_flags])

    def module(self, name):
        return importlib.import_module(f"thaw.v1.{name}")

    def call(self, service, method, request):
        """One unary call as the admin."""
        import grpc
        stub_module = self.module({"FineTuneService": "fine_tune_service_pb2_grpc", "WorkerService":
                                   "worker_service_pb2_grpc", "ArtifactService": "artifact_service_pb2_grpc"}[service])
        token = self.token_file.read_text().strip()
        with grpc.insecure_channel(self.address) as channel:
            stub = getattr(stub_module, service + "Stub")(channel)
            return getattr(stub, method)(request, metadata=(("authorization", "Bearer " + token),), timeout=30)

    def thaw(self, *arguments, check=True, seconds=300):
        """The command line; its standard output."""
        environment = dict(os.environ, THAW_SERVER=self.address, THAW_TOKEN_FILE=str(self.token_file))
        done = subprocess.run([str(BIN / "thaw"), *(str(part) for part in arguments)], env=environment, timeout=seconds,
                              capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"thaw {arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n"
                                 f"{self.logs()}")
        return done

    def logs(self):
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}"
                         for path in sorted(self.directory.glob("*.log")))
