#pragma once

#include <string>

#include "absl/status/status.h"
#include "server/jobs/database.h"

namespace thaw {

// "Thaw" as a number: marks the file as ours.
inline constexpr int kApplicationId = 0x54686177;
// Raised with every change of the tables, together with a step that brings older files up to it.
inline constexpr int kSchemaVersion = 4;

// Makes a fresh file a job store, or checks that it is one: FAILED_PRECONDITION for another
// application's file, a newer schema or a damaged file, each with what to do. An older schema is
// brought up to date.
absl::Status PrepareSchema(Connection& connection, const std::string& path);

}  // namespace thaw
