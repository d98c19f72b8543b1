#!/usr/bin/env python3
"""Every panel of the dashboard has data: real Prometheus scrapes a real server with a running job, and each panel's query
is asked with its variables filled in. A stopped server must show as such, and what is exported must be on a panel."""
import json
import pathlib
import re
import shutil
import signal
import socket
import sys
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
import thaw_services  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
DASHBOARD = json.loads((thaw_services.ROOT / "deploy/grafana/dashboards/thaw.json").read_text())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


class Prometheus:
    def __init__(self, services):
        self.port = free_port()
        config = services.directory / "prometheus.yml"
        shipped = (thaw_services.ROOT / "deploy/prometheus/prometheus.yml").read_text()
        (services.directory / "alerts.yml").write_text((thaw_services.ROOT / "deploy/prometheus/alerts.yml").read_text())
        config.write_text(shipped.replace("127.0.0.1:7434", services.metrics_address)
                          .replace("scrape_interval: 5s", "scrape_interval: 1s"))
        assert services.metrics_address in config.read_text(), "the shipped scrape target has changed"
        services.start("prometheus", ["prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{self.port}",
                                      f"--storage.tsdb.path={services.directory / 'tsdb'}"])
        thaw_services.wait_for("Prometheus", lambda: fetch(f"http://127.0.0.1:{self.port}/-/ready"))

    def query(self, expression):
        """Values of the result, numbers only (a quantile over nothing is NaN and counts as none)."""
        answer = json.loads(fetch(f"http://127.0.0.1:{self.port}/api/v1/query?" +
                                  urllib.parse.urlencode({"query": expression})) or '{"data": {"result": []}}')
        if answer.get("status") == "error":
            raise AssertionError(f"{expression}: {answer['error']}")
        return [row for row in answer["data"]["result"] if row["value"][1] != "NaN"]


def filled_in(expression, job):
    for name, value in (("$__rate_interval", "10s"), ("$__range", "300s"), ("$worker", ".*"), ("$job", job)):
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def main():
    trainer = thaw_services.BIN / "thaw-fake-trainer"
    with thaw_services.Services(trainer) as services:
        prometheus = Prometheus(services)
        # Rates need a point from before whatever they count.
        thaw_services.wait_for("the first scrape", lambda: prometheus.query('up{job="thaw"} == 1'))
        job = submit_long_job(services)
        queries = [(panel["title"], filled_in(target["expr"], job))
                   for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
        assert len(queries) > 20
        for title, query in queries:
            thaw_services.wait_for(f"data on panel '{title}': {query}", lambda: prometheus.query(query))
            print(f"ok panel {title}: {query}")
        for variable in DASHBOARD["templating"]["list"]:
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            values = {row["metric"][label] for row in prometheus.query(metric)}
            assert values, f"variable {variable['name']} has no values"
            if variable["name"] == "job":
                assert job in values
        check_names(fetch(f"http://{services.metrics_address}/metrics"), job)
        services.server.send_signal(signal.SIGTERM)
        services.server.wait(timeout=30)
        thaw_services.wait_for("the stopped server to show", lambda: [
            row for row in prometheus.query('up{job="thaw"}') if row["value"][1] == "0"])
        print("ok a stopped server shows as up == 0")


def check_names(exposition, job):
    exported = set(re.findall(r"^# TYPE (\w+)", exposition, re.M))
    shown = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", []))
    allowed = set((HERE / "not_on_a_panel.txt").read_text().split())
    missing = {name for name in exported if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", shown)} - allowed
    assert not missing, f"exported, but on no panel and not in not_on_a_panel.txt: {sorted(missing)}"
    series = [line for line in exposition.splitlines() if f'job_id="{job}"' in line]
    assert 0 < len(series) <= 12, series
    print(f"ok {len(exported)} metrics exported, {len(series)} series for the running job")


def submit_long_job(services):
    """A job on the fake trainer that reports slowly until it is ended with everything else."""
    data = services.directory / "rows.jsonl"
    data.write_text("".join(json.dumps({"text": f"row {i}", "label": i % 2}) + "\n" for i in range(40)))
    model = services.directory / "tiny"
    shutil.copytree(thaw_services.ROOT / "tests/data/models/bert-cls", model,
                    ignore=lambda _, names: [name for name in names if name not in ("config.json", "model.safetensors")])
    shutil.copy(thaw_services.ROOT / "tests/data/tokenizers/minilm.tokenizer.json", model / "tokenizer.json")
    services.thaw("model", "import", model, "--name", "tiny")
    services.thaw("dataset", "import", data, "--name", "rows")
    listed = {kind: json.loads(services.thaw(kind, "list", "--json").stdout.splitlines()[0])["id"]
              for kind in ("model", "dataset")}
    spec = {"base_model": listed["model"], "labels": {"fake": "slow"}, "training": {
        "dataset": listed["dataset"], "text_classification": {}, "max_length": 16,
        "phases": [{"selector": {"head_only": True}, "learning_rate": 0.001, "steps": 5},
                   {"selector": {"everything": True}, "learning_rate": 0.001, "steps": 100_000}]}}
    path = services.directory / "spec.json"
    path.write_text(json.dumps(spec))
    job = json.loads(services.thaw("submit", path, "--json").stdout.splitlines()[-1])["id"]
    print("submitted", job)
    return job


if __name__ == "__main__":
    main()
