"""The checks of script/lint: what each must refuse and what it must let through."""
import os
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "script", "checks"))

import includes
import links
import protos
import sizes
import words


class Includes(unittest.TestCase):
    def test_allowed(self):
        for path, header in [
            ("server/rpc/fine_tune_service.cc", "grpcpp/grpcpp.h"),
            ("server/rpc/fine_tune_service.cc", "server/jobs/job_store.h"),
            ("server/jobs/job_store.cc", "common/base/files.h"),
            ("server/jobs/job_store.cc", "thaw/v1/job.pb.h"),
            ("worker/training/loop.cc", "torch/types.h"),
            ("worker/training/loop.cc", "worker/model/bert.h"),
            ("worker/agent/agent.cc", "grpcpp/channel.h"),
            ("worker/agent/main.cc", "CLI/CLI.hpp"),
            ("tests/worker/model/bert_test.cc", "torch/types.h"),
            ("tests/server/jobs/job_store_test.cc", "server/rpc/status.h"),
            ("tests/e2e/training_test.cc", "grpcpp/grpcpp.h"),
        ]:
            self.assertIsNone(includes.complaint(path, header), (path, header))

    def test_refused(self):
        for path, header in [
            ("server/jobs/job_store.cc", "grpcpp/grpcpp.h"),
            ("server/jobs/job_store.cc", "thaw/v1/fine_tune_service.grpc.pb.h"),
            ("server/jobs/job_store.cc", "server/rpc/fine_tune_service.h"),
            ("server/artifacts/artifact_store.cc", "worker/model/safetensors.h"),
            ("client/submit.cc", "server/jobs/job_store.h"),
            ("client/submit.cc", "CLI/CLI.hpp"),
            ("common/base/files.cc", "common/rpc/channel.h"),
            ("common/spec/resolve.cc", "torch/types.h"),
            ("worker/data/packed_batch.cc", "ATen/ATen.h"),
            ("worker/model/bert.cc", "worker/training/loop.h"),
            ("worker/kernels/attention.cc", "c10/core/ScalarType.h"),
            ("worker/trainer/main.cc", "grpcpp/grpcpp.h"),
            ("worker/agent/agent.cc", "worker/trainer/frames.h"),
            ("worker/agent/agent.cc", "tests/testing/fake_clock.h"),
            ("tests/server/jobs/job_store_test.cc", "torch/types.h"),
        ]:
            self.assertIsNotNone(includes.complaint(path, header), (path, header))

    def test_names_the_line(self):
        files = {"server/jobs/a.cc": '#include <string>\n# include <torch/types.h>\n', "docs/a.md": "#include <torch/types.h>"}
        self.assertEqual([(path, line) for path, line, _ in includes.check(files)], [("server/jobs/a.cc", 2)])

    def test_one_way_to_the_terminal(self):
        files = {f"client/cli/{name}.cc": text for name, text in {
            "console": 'std::fprintf(out, "%s", text);\n', "jobs": 'Print("%s", id);\nstd::snprintf(buffer, 9, "x");\n',
            "up": '\nstd::printf("%s", id);\n', "history": 'std::cout << id;\n', "fetch": 'fputs(id, stdout);\n'}.items()}
        files["client/examples/submit.cc"] = 'std::printf("%s", id);\n'
        self.assertEqual([(path, line) for path, line, _ in includes.check(files)],
                         [("client/cli/up.cc", 2), ("client/cli/history.cc", 1), ("client/cli/fetch.cc", 1)])


class Sizes(unittest.TestCase):
    def test_limit(self):
        files = {"a.cc": "\n" * 600, "b.h": "\n" * 601, "c.md": "\n" * 5000}
        self.assertEqual([path for path, _, _ in sizes.check(files)], ["b.h"])

    def test_report(self):
        files = {"a.h": "\n" * 10, "b.h": "\n" * 80, "c.h": "\n" * 500, "tests/d.h": "\n" * 400, "e.cc": "\n" * 161}
        headers, sources = sizes.report(files)
        self.assertIn("3 files, median 80 lines", headers)
        self.assertIn("longest 500 (c.h", headers)
        self.assertTrue(sources.endswith("OVER target"))


class Words(unittest.TestCase):
    def complaints(self, line, path="server/main.cc"):
        return [number for _, number, _ in words.check({path: "\n" + line})]

    def test_refused(self):
        registry = ".".join(("py" + "pi", "org"))
        for line in ['Open("/' 'work/a")', "see ../" "shared/a.md", "cat " "shared/a/b.md", "// TODO(me): later",
                     "TEST(A, DISABLED_B)", "GTEST_SKIP();", f"FROM https://{registry}/simple", "// see issue 12", "/root/x"]:
            self.assertEqual(self.complaints(line), [2], line)

    def test_allowed(self):
        for line in ["worker/agent/main.cc", "std::shared_ptr<A> a;", "artifact_dir may be shared storage", "tests/work/a", 'directory + "/work"',
                     "the TODOs", "an issue with 2 causes", "$HOME/.cache/thaw", "networks/shared_state.h"]:
            self.assertEqual(self.complaints(line), [], line)

    def test_exempt(self):
        self.assertEqual(self.complaints("TODO", "worker/text/rust/Cargo.lock"), [])


class Links(unittest.TestCase):
    def test_targets(self):
        files = {"docs/a.md": "[b](b.md) [c](../c.md#part)\n[d](d.md) [adr](adr) [web](https://x.org/a) [here](#part)",
                 "docs/b.md": "", "c.md": "", "docs/adr/1.md": ""}
        self.assertEqual([(path, line) for path, line, _ in links.check(files)], [("docs/a.md", 2)])


class Protos(unittest.TestCase):
    def complaints(self, text):
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(f"{root}/thaw/v1")
            with open(f"{root}/thaw/v1/a.proto", "w") as file:
                file.write('syntax = "proto3";\npackage thaw.v1;\n' + text)
            return [(line, message) for _, line, message in protos.check(root, ["thaw/v1/a.proto"], [])]

    def expect(self, text, line, words_of_message):
        found = self.complaints(text)
        self.assertEqual(len(found), 1, found)
        self.assertEqual(found[0][0], line)
        self.assertIn(words_of_message, found[0][1])

    def test_clean(self):
        self.assertEqual(self.complaints("""
            // A job.
            message Job {
              // Its state.
              enum State {
                STATE_UNSPECIFIED = 0;
                QUEUED = 1;  // Waits.
              }
              // Now.
              State state = 1;
              optional int64 row_count = 2;  // Rows.
              // By name.
              map<string, string> labels = 3;
            }
            // Asks for a job.
            message GetJobRequest {}
            // All about jobs.
            service Jobs {
              // Gives one.
              rpc GetJob(GetJobRequest) returns (Job);
            }"""), [])

    def test_message(self):
        self.expect("message A {}\n", 3, "message A has no comment")
        self.expect("// A.\nmessage A {\n int64 x = 1;\n}", 5, "field A.x has no comment")
        self.expect("// A.\nmessage A {\n int64 rowCount = 1;  // x\n}", 5, "not lower_snake_case")
        self.expect("// A.\nmessage A_b {}\n", 4, "not PascalCase")

    def test_enum(self):
        self.expect("// E.\nenum E {\n UNKNOWN = 0;\n}", 5, "not E_UNSPECIFIED")
        self.expect("// E.\nenum E {\n E_UNSPECIFIED = 0;\n B = 1;\n}", 6, "no comment")
        self.expect("// E.\nenum E {\n E_UNSPECIFIED = 0;\n E_B = 1; // b\n}", 6, "repeats the name")

    def test_service(self):
        self.expect("// M.\nmessage GetRequest {}\n// S.\nservice S {\n rpc Get(GetRequest) returns (GetRequest);\n}", 7,
                    "rpc Get has no comment")
        self.expect("// M.\nmessage M {}\n// S.\nservice S {\n // Gets.\n rpc Get(M) returns (M);\n}", 8, "not GetRequest")


if __name__ == "__main__":
    unittest.main()
