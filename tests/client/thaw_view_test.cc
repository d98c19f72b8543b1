#include "client/cli/thaw_view.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::Not;

v1::PhaseStart PhaseOf(const std::string& text) {
  v1::PhaseStart phase;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &phase)) << text;
  return phase;
}

TEST(ShortNamesTest, TellsWhatTheyShareAndHowManyThereAre) {
  google::protobuf::RepeatedPtrField<std::string> names;
  for (const char* name :
       {"bert.encoder.layer.5.attention.self.query.weight",
        "bert.encoder.layer.5.attention.self.query.bias", "bert.pooler.dense.weight",
        "classifier.weight", "classifier.bias", "bert.encoder.layer.5.output.dense.bias"}) {
    *names.Add() = name;
  }
  EXPECT_EQ(ShortNames(names, 3),
            "bert.encoder.layer.5.* (3), bert.pooler.dense.* (1), classifier.* (2)");
  EXPECT_EQ(ShortNames(names, 1), "bert.encoder.layer.5.* (3), and 3 more");
  *names.Mutable(0) = "a\x1b[31m.weight";
  EXPECT_THAT(ShortNames(names, 9), Not(testing::HasSubstr("\x1b")));
}

TEST(PhaseLinesTest, SayWhatTrainsWhatIsNewAndHowFast) {
  const v1::PhaseStart phase = PhaseOf(R"(
    phase: 2 name: "top" steps: 250 trainable_parameters: 1774464 total_parameters: 22713216
    newly_trainable_names: "layer.0.weight" newly_trainable_names: "layer.1.weight"
    rates { group: "block.0" learning_rate: 0.0001 } rates { group: "block.1" learning_rate: 0.0001 }
    rates { group: "head" learning_rate: 0.001 })");
  EXPECT_THAT(PhaseLines(phase),
              ElementsAre("phase 2 top: 1,774,464 parameters train (7.8 %), 250 steps, lr 0.001",
                          "  new: layer.0.* (1), layer.1.* (1)",
                          "  rates: head 0.001, block.0 to block.1 0.0001"));
  EXPECT_THAT(PhaseLines(PhaseOf("phase: 1 name: 'a' trainable_parameters: 7")),
              ElementsAre("phase 1 a: 7 parameters train (0.0 %)"))
      << "no steps where a time ends it";
}

TEST(ThawPictureTest, DrawsEveryPhaseByTheRatesOfItsGroups) {
  EXPECT_THAT(
      ThawPicture({PhaseOf("phase: 1 name: 'head' rates { group: 'head' learning_rate: 0.008 }"),
                   PhaseOf("phase: 2 name: 'a name that is much too long' "
                           "rates { group: 'block.1' learning_rate: 0.004 } "
                           "rates { group: 'head' learning_rate: 0.008 }"),
                   PhaseOf("phase: 3 name: 'all' rates { group: 'embeddings' learning_rate: 1e-9 } "
                           "rates { group: 'block.0' learning_rate: 0.002 } "
                           "rates { group: 'block.1' learning_rate: 0.004 } "
                           "rates { group: 'head' learning_rate: 0.008 }")}),
      ElementsAre("1 head                    ···█", "2 a name that is much t…  ··▇█",
                  "3 all                     ▁▆▇█"));
}

TEST(ThawPictureTest, WhatAServerSaysCannotBreakIt) {
  EXPECT_TRUE(ThawPicture({}).empty());
  EXPECT_TRUE(
      ThawPicture({PhaseOf("rates { group: 'block.2000000000' learning_rate: 1 }")}).empty());
  EXPECT_EQ(ThawPicture({PhaseOf("name: 'x' rates { group: 'block.-7' learning_rate: -1 } "
                                 "rates { group: '' learning_rate: nan }")})
                .size(),
            1u);
}

}  // namespace
}  // namespace thaw
