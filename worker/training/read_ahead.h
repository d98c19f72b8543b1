// Weights on their way from the disk while rows are still being read.
#pragma once

#include <string>
#include <thread>

namespace thaw {

// Has the kernel read the weights in `directory` into its page cache, on a thread of its own:
// models are mapped, so that otherwise the first step waits for the disk page by page. A hint: what
// cannot be read is left to whoever needs it. The destructor stops what is not yet done.
class ReadAhead {
 public:
  explicit ReadAhead(std::string directory);

 private:
  std::jthread thread_;
};

}  // namespace thaw
