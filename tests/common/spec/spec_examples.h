// Specs and artifacts to start from in the tests of common/spec and of the client.
#pragma once

#include <string>

#include "common/spec/spec.h"
#include "common/spec/spec_json.h"
#include "gtest/gtest.h"

namespace thaw {

inline v1::JobSpec SpecFromJson(const std::string& json) {
  auto spec = ParseSpecJson(json);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : v1::JobSpec();
}

inline v1::JobSpec TrainingExample() {
  return SpecFromJson(R"({"base_model": "model-1", "training": {
    "dataset": "dataset-1", "text_classification": {},
    "phases": [{"selector": {"head_only": true}, "learning_rate": 0.001, "epochs": 1},
               {"selector": {"last_blocks": 2}, "learning_rate": 0.0001, "steps": 100}]}})");
}

inline v1::JobSpec PredictionExample() {
  return SpecFromJson(R"({"prediction": {"model": "result-1", "texts": {"values": ["good"]},
                          "classify": {}}})");
}

inline v1::Artifact ReadyArtifact(const std::string& id, v1::Artifact::Kind kind) {
  v1::Artifact artifact;
  artifact.set_id(id);
  artifact.set_kind(kind);
  artifact.set_state(v1::Artifact::READY);
  return artifact;
}

inline v1::Artifact ModelExample(const std::string& id, v1::Artifact::Kind kind,
                                 const std::vector<std::string>& labels = {}) {
  v1::Artifact model = ReadyArtifact(id, kind);
  model.mutable_model()->set_model_type("bert");
  model.mutable_model()->set_blocks(6);
  model.mutable_model()->set_max_positions(512);
  for (const std::string& label : labels) model.mutable_model()->add_labels(label);
  return model;
}

inline v1::Artifact DatasetExample(const std::string& id,
                                   const std::vector<std::string>& labels = {"0", "1"}) {
  v1::Artifact dataset = ReadyArtifact(id, v1::Artifact::DATASET);
  dataset.mutable_dataset()->set_text_column("text");
  dataset.mutable_dataset()->set_label_column("label");
  for (const std::string& label : labels) {
    v1::LabelCount* count = dataset.mutable_dataset()->add_labels();
    count->set_label(label);
    count->set_rows(50);
    dataset.mutable_dataset()->set_rows(dataset.dataset().rows() + 50);
  }
  return dataset;
}

// model-1, result-1 (labels 0 and 1), dataset-1 (100 rows, labels 0 and 1) and dataset-2 (label 1).
inline SpecContext ContextExample() {
  SpecContext context;
  context.artifacts["model-1"] = ModelExample("model-1", v1::Artifact::MODEL);
  context.artifacts["result-1"] = ModelExample("result-1", v1::Artifact::RESULT, {"0", "1"});
  context.artifacts["dataset-1"] = DatasetExample("dataset-1");
  context.artifacts["dataset-2"] = DatasetExample("dataset-2", {"1"});
  return context;
}

}  // namespace thaw
