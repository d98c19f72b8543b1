// `thaw up` with a server and a worker that only write down what happens to them.
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "gmock/gmock.h"
#include "tests/client/fake_thaw_server.h"
#include "tests/client/run_thaw.h"

namespace thaw {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class UpTest : public testing::Test {
 protected:
  UpTest() : directory_(testing::TempDir() + "/up_" + RandomId()), data_(directory_ + "/data") {
    EXPECT_TRUE(MakeDirectories(directory_ + "/bin").ok());
    // A program finds its siblings by its own path, so it has to lie beside the fakes.
    const std::string copy = directory_ + "/bin/thaw";
    const auto program = ReadFile(ProgramDirectory() + "/thaw", int64_t{1} << 30);
    EXPECT_TRUE(program.ok()) << program.status();
    EXPECT_TRUE(WriteFileAtomically(copy, program.value_or(""), 0755).ok());
    char host[256] = {};
    gethostname(host, sizeof host - 1);
    v1::WorkerStatus& worker = server_.workers.emplace_back();
    worker.set_worker(host);
    worker.set_connected(true);
  }

  void LeaveProgram(const std::string& name, const std::string& script) {
    const std::string path = directory_ + "/bin/" + name;
    EXPECT_TRUE(WriteFileAtomically(path, "#!/bin/bash\n" + script, 0755).ok());
  }
  // Tells where the fake server listens, then waits for its end and writes that down.
  std::string ServerScript() {
    return absl::StrCat("mkdir -p ", data_, "; cp ", server_.token_file(), " ", data_,
                        "/access_token\n", "echo \"server $*\" >> ", journal(), "\n",
                        "trap 'echo server stopped >> ", journal(), "; exit 0' TERM\n",
                        "echo '{\"listen\":\"", server_.address(),
                        "\",\"metrics_listen\":\"127.0.0.1:9\"}' > ", data_, "/ports.json\n",
                        "while :; do sleep 0.01; done\n");
  }
  std::string WorkerScript() {
    return absl::StrCat("trap 'echo worker stopped >> ", journal(),
                        "; exit 0' TERM\necho \"worker $*\" >> ", journal(),
                        "\nwhile :; do sleep 0.01; done\n");
  }
  std::string journal() const { return directory_ + "/journal"; }
  std::string Up(const std::string& then) {
    return absl::StrCat(directory_, "/bin/thaw up --data_dir ", data_, " --listen 127.0.0.1:0 > ",
                        directory_, "/out & pid=$!; ", then, "; wait $pid; echo code $?");
  }

  const std::string directory_;
  const std::string data_;
  FakeThawServer server_;
};

TEST_F(UpTest, StartsBothTellsWhereAndStopsTheWorkerFirst) {
  LeaveProgram("thawd", ServerScript());
  LeaveProgram("thaw-worker", WorkerScript());
  const ProgramRun run = RunProgram(
      "/bin/bash",
      {"-c", Up(absl::StrCat("until grep -q Ctrl-C ", directory_, "/out && grep -q worker ",
                             journal(), "; do sleep 0.01; done; kill -INT $pid"))},
      {});
  EXPECT_EQ(run.out, "code 0\n") << run.err;
  EXPECT_THAT(
      ReadFile(directory_ + "/out").value_or(""),
      AllOf(HasSubstr("server   " + server_.address()), HasSubstr("http://127.0.0.1:9/metrics"),
            HasSubstr("THAW_TOKEN_FILE=" + data_ + "/access_token")));
  const std::string journal_text = ReadFile(journal()).value_or("");
  EXPECT_THAT(journal_text, HasSubstr("worker --server " + server_.address()));
  EXPECT_LT(journal_text.find("worker stopped"), journal_text.find("server stopped"))
      << journal_text;
}

TEST_F(UpTest, AServerThatDoesNotStartIsExplainedByItsOwnLine) {
  LeaveProgram("thawd", "echo 'thawd: 127.0.0.1:7433 is taken' >&2; exit 1\n");
  LeaveProgram("thaw-worker", WorkerScript());
  const ProgramRun run = RunProgram("/bin/bash", {"-c", Up("true")}, {});
  EXPECT_EQ(run.out, "code 1\n");
  EXPECT_THAT(run.err, AllOf(HasSubstr("thawd ended (exit code 1)"), HasSubstr("is taken")));
}

TEST_F(UpTest, WhenTheWorkerEndsTheServerIsStopped) {
  LeaveProgram("thawd", ServerScript());
  LeaveProgram("thaw-worker", "sleep 0.05; exit 7\n");
  const ProgramRun run = RunProgram("/bin/bash", {"-c", Up("true")}, {});
  EXPECT_EQ(run.out, "code 1\n");
  EXPECT_THAT(run.err, HasSubstr("thaw-worker ended (exit code 7)"));
  EXPECT_THAT(ReadFile(journal()).value_or(""), HasSubstr("server stopped"));
}

TEST_F(UpTest, WithoutItsProgramsItSaysWhichIsMissing) {
  const ProgramRun run = RunProgram("/bin/bash", {"-c", Up("true")}, {});
  EXPECT_EQ(run.out, "code 2\n");
  EXPECT_THAT(run.err, HasSubstr("bin/thawd"));
}

}  // namespace
}  // namespace thaw
