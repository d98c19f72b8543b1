#pragma once

#include <cstdlib>
#include <string>

#include "common/base/files.h"
#include "common/base/log.h"
#include "gtest/gtest.h"

namespace thaw {

// A fresh directory below ::testing::TempDir(), removed with everything in it when it goes.
class TempDir {
 public:
  TempDir() {
    path_ = ::testing::TempDir() + "thaw-XXXXXX";
    THAW_CHECK(mkdtemp(path_.data()) != nullptr);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() { (void)RemoveTree(path_); }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace thaw
