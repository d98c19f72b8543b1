"""Who may include whom: the layers of ARCHITECTURE.md, for every C++ file of the project. And who may write."""
import re

# folder -> folders it may include besides itself; the longest matching folder counts. None: anything.
BASE = ["common/base"]
COMMON = ["common", "proto"]
LAYERS = {
    "common/base": [],
    "common/dataset": BASE + ["common/spec"],
    "common/spec": BASE + ["common/dataset"],
    "common/rpc": ["common"],
    "common/safetensors": BASE,
    "common/delta": BASE + ["common/safetensors", "proto"],
    "server": COMMON,
    "server/jobs": COMMON + ["server/artifacts"],
    "server/scheduling": COMMON + ["server/jobs"],
    "server/artifacts": COMMON + ["server/jobs"],
    "server/metrics": COMMON + ["server/jobs", "server/scheduling", "server/artifacts"],
    "server/rpc": COMMON + ["server"],
    "worker/agent": COMMON,
    "worker/text": BASE,
    "worker/data": COMMON + ["worker/text"],
    "worker/kernels": BASE,
    "worker/model": COMMON + ["worker/data", "worker/text", "worker/kernels"],
    "worker/tuning": COMMON + ["worker/data", "worker/text", "worker/kernels", "worker/model"],
    "worker/training": COMMON + ["worker/data", "worker/text", "worker/kernels", "worker/model", "worker/tuning"],
    "worker/trainer": COMMON + ["worker/data", "worker/text", "worker/kernels", "worker/model", "worker/tuning",
                                "worker/training"],
    "client": COMMON,
}
TORCH_HOMES = ["worker/model", "worker/tuning", "worker/training", "worker/trainer"]
GRPC_HOMES = ["server/rpc", "worker/agent", "client", "common/rpc"]
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[>"]')
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")
GRPC = re.compile(r"^(grpc|grpcpp)/|\.grpc\.pb\.h$")
FLAGS = re.compile(r"^(CLI/|absl/flags/|getopt\.h$)")
WRITING = re.compile(r"\b(printf|fprintf|puts|fputs|putchar|fputc|fwrite)\(|std::(cout|cerr|clog)\b")
OURS = re.compile(r"^(common|server|worker|client|tests|testing|bench)/")


def within(path, folders):
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def layer_of(path):
    homes = [folder for folder in LAYERS if within(path, [folder])]
    return max(homes, key=len) if homes else None


def complaint(path, header):
    """Why the file at `path` may not include `header`, or None."""
    mirrored = re.sub(r"^(tests|bench)/", "", path)  # a test may do what the folder that it tests may do, and include anything of ours
    free = mirrored != path and not within(mirrored, ["common", "server", "worker", "client"])
    if TORCH.match(header) and not free and not within(mirrored, TORCH_HOMES):
        return f"LibTorch headers appear only under {', '.join(TORCH_HOMES)}"
    if GRPC.search(header) and not free and not within(mirrored, GRPC_HOMES):
        return f"gRPC headers appear only under {', '.join(GRPC_HOMES)}"
    if mirrored != path:
        return None
    if FLAGS.match(header) and not path.endswith("main.cc"):
        return "command line flags are read only in main.cc"
    if header.startswith("tests/") or header.startswith("testing/"):
        return "only tests include tests"
    layer = layer_of(path)
    if layer and OURS.match(header) and not within(header, [layer] + LAYERS[layer]):
        return f"{layer} may include only {', '.join([layer] + LAYERS[layer])}"
    if ".." in header.split("/"):
        return "includes are written from the root"
    return None


def check(files):
    """files: {path: text}. Yields (path, line, message)."""
    for path, text in files.items():
        if not path.endswith((".h", ".cc")):
            continue
        writes = path.startswith("client/cli/") and path != "client/cli/console.cc"
        for number, line in enumerate(text.splitlines(), 1):
            if writes and WRITING.search(line):
                yield path, number, "only client/cli/console.cc writes to the terminal, which it keeps clean: use Print"
            match = INCLUDE.match(line)
            message = match and complaint(path, match.group(1))
            if message:
                yield path, number, f'includes "{match.group(1)}": {message}'
