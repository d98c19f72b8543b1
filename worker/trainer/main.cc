// thaw-trainer: runs one attempt that thaw-worker hands it over an inherited socket, then exits;
// after a prediction it may wait warm for another one on the same model.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "absl/strings/ascii.h"
#include "common/base/log.h"
#include "worker/trainer/attempt.h"
#include "worker/trainer/frame_reader.h"
#include "worker/trainer/frame_sink.h"
#include "worker/trainer/inbox.h"
#include "worker/trainer/process.h"

namespace {

// Runs the next attempt; true if the worker may send another one after it.
bool RunNext(int socket, double point_interval, thaw::Inbox* inbox, thaw::WarmModel* warm) {
  const thaw::Inbox::Work work = inbox->Next();
  const thaw::internal::Run& run = work.run;
  if (!run.log_file().empty()) {
    if (const absl::Status status = thaw::MoveTo(run.work_dir(), run.log_file()); !status.ok()) {
      // The output would be another job's, and the worker starts another trainer for one that has
      // said nothing.
      THAW_LOG(kError, "not_moved", {"work_dir", run.work_dir()}, {"status", status.ToString()});
      std::_Exit(1);
    }
  }
  at::set_num_threads(run.threads() > 0 ? run.threads() : thaw::UsableCores());
  THAW_LOG(kInfo, "attempt_started", {"job", run.assignment().job()},
           {"attempt", run.assignment().attempt()}, {"threads", at::get_num_threads()});
  thaw::FrameSink sink(socket);
  const thaw::AttemptContext context{.sink = &sink,
                                     .control = work.control.get(),
                                     .clock = &thaw::RealClock(),
                                     .point_interval_seconds = point_interval};
  thaw::internal::Ended ended =
      thaw::CatchExceptions([&] { return thaw::RunAssignment(run, context, warm); },
                            [&sink] { return sink.last_step(); });
  ended.set_waits(!run.warm_key().empty() && run.assignment().spec().has_prediction() &&
                  ended.end().outcome() == thaw::v1::AttemptEnd::SUCCEEDED);
  THAW_LOG(kInfo, "attempt_ended",
           {"outcome", thaw::v1::AttemptEnd::Outcome_Name(ended.end().outcome())},
           {"step", ended.end().step()}, {"waits", ended.waits()});
  sink.End(ended);
  return ended.waits();
}

}  // namespace

int main(int argc, char** argv) {
  int socket = 3;
  double point_interval = 0.1;
  CLI::App app{"Runs attempts of Thaw jobs. Started by thaw-worker, not by people."};
  app.add_option("--fd", socket, "inherited stream socket to the worker")->capture_default_str();
  app.add_option("--point_interval", point_interval,
                 "least seconds between the metric points of two optimizer steps")
      ->capture_default_str();
  bool tell_devices = false;
  app.add_flag("--devices", tell_devices,
               "print the kinds of device that it can compute on, one a line, and exit");
  CLI11_PARSE(app, argc, argv);
  if (tell_devices) {
    for (const auto kind : thaw::kComputesOn) {
      std::cout << absl::AsciiStrToLower(thaw::v1::Resources::DeviceKind_Name(kind)) << "\n";
    }
    return 0;
  }
  thaw::DieWithParent();
  thaw::EnsureEnvironment(argv);
  thaw::KeepFreedMemory();

  thaw::Inbox inbox;
  std::thread([&inbox, socket] { thaw::ReadFrames(socket, &inbox); }).detach();
  thaw::WarmModel warm;
  while (RunNext(socket, point_interval, &inbox, &warm)) thaw::ReturnFreedMemory();
  // The reading thread still waits on the socket: nothing may be torn down under it.
  std::_Exit(0);
}
