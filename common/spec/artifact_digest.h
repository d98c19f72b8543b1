// The name of an artifact's content.
#pragma once

#include <string>

#include "google/protobuf/repeated_ptr_field.h"
#include "thaw/v1/artifact.pb.h"

namespace thaw {

// Artifact.digest: SHA-256 over the sorted lines "<sha256>  <path>\n", whatever the files' order.
std::string DigestOfFiles(const google::protobuf::RepeatedPtrField<v1::File>& files);

}  // namespace thaw
