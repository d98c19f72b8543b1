// thaw-trainer: runs one attempt that thaw-worker hands it over an inherited socket, then exits.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "absl/strings/ascii.h"
#include "common/base/log.h"
#include "common/frames/frame.h"
#include "worker/trainer/attempt.h"
#include "worker/trainer/frame_reader.h"
#include "worker/trainer/frame_sink.h"
#include "worker/trainer/process.h"

int main(int argc, char** argv) {
  int socket = 3;
  double point_interval = 0.1;
  CLI::App app{"Runs one attempt of a Thaw job. Started by thaw-worker, not by people."};
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

  thaw::internal::ToTrainer first;
  const absl::StatusOr<bool> more = thaw::ReadFrame(socket, &first);
  if (!more.ok() || !*more || !first.has_run()) {
    THAW_LOG(kError, "no_assignment", {"status", more.status().ToString()});
    return 1;
  }
  const thaw::internal::Run& run = first.run();
  at::set_num_threads(run.threads() > 0 ? run.threads() : thaw::UsableCores());
  THAW_LOG(kInfo, "attempt_started", {"job", run.assignment().job()},
           {"attempt", run.assignment().attempt()}, {"threads", at::get_num_threads()});

  thaw::Control control;
  std::thread([&control, socket] { thaw::ReadRequests(socket, &control); }).detach();
  thaw::FrameSink sink(socket);
  const thaw::AttemptContext context{.sink = &sink,
                                     .control = &control,
                                     .clock = &thaw::RealClock(),
                                     .point_interval_seconds = point_interval};
  const thaw::internal::Ended ended = thaw::CatchExceptions(
      [&] { return thaw::RunAssignment(run, context); }, [&sink] { return sink.last_step(); });
  sink.End(ended);
  THAW_LOG(kInfo, "attempt_ended",
           {"outcome", thaw::v1::AttemptEnd::Outcome_Name(ended.end().outcome())},
           {"step", ended.end().step()});
  // The reading thread still waits on the socket: nothing may be torn down under it.
  std::_Exit(0);
}
