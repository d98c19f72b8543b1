#include "server/artifacts/model_summary.h"

#include "common/base/clean_text.h"
#include "common/base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/artifacts/artifact_fixture.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<v1::ModelSummary> Summarize(const FileContents& files) {
  const TempDir directory;
  v1::Artifact artifact;
  for (const auto& [path, bytes] : files) {
    EXPECT_TRUE(WriteFileAtomically(directory.path() + "/" + path, bytes).ok());
    artifact.add_files()->set_path(path);
  }
  return SummarizeModel(directory.path(), artifact);
}

void CheckRefused(const std::string& path, const std::string& bytes, const std::string& expected) {
  FileContents files = TinyModel();
  files[path] = bytes;
  const absl::Status status = Summarize(files).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(expected));
}

std::string Config(const std::string& more) {
  return R"({"model_type":"bert","num_hidden_layers":2,"hidden_size":8,"max_position_embeddings":64,)" +
         more + "}";
}

TEST(SummarizeModel, SumsParametersOverFiles) {
  FileContents files = TinyModel();
  files["more.safetensors"] = TinySafetensors("[6]");
  const auto summary = Summarize(files);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->parameters(), 12);
  EXPECT_EQ(summary->hidden_size(), 8);
  EXPECT_EQ(summary->max_positions(), 64);
  EXPECT_EQ(summary->labels_size(), 0);
}

TEST(SummarizeModel, CountsNumbersInFourBits) {
  const std::string data = std::getenv("THAW_TEST_DATA");
  v1::Artifact artifact;
  for (const char* file : {"config.json", "model.safetensors"})
    artifact.add_files()->set_path(file);
  const auto in_fp32 = SummarizeModel(data + "/models/llama", artifact);
  const auto in_nf4 = SummarizeModel(data + "/nf4/llama", artifact);
  ASSERT_TRUE(in_fp32.ok() && in_nf4.ok()) << in_fp32.status() << in_nf4.status();
  EXPECT_GT(in_fp32->parameters(), 70'000);
  EXPECT_EQ(in_nf4->parameters(), in_fp32->parameters());
}

TEST(SummarizeModel, ReadsLabelsOfAClassifier) {
  FileContents files = TinyModel();
  files["config.json"] = Config(
      R"("architectures":["BertForSequenceClassification"],"id2label":{"1":"good","0":"bad"})");
  EXPECT_THAT(Summarize(files)->labels(), ElementsAre("bad", "good"));
  // Every config carries such labels, also that of a model without a head.
  files["config.json"] =
      Config(R"("architectures":["BertModel"],"id2label":{"0":"LABEL_0","1":"LABEL_1"})");
  EXPECT_EQ(Summarize(files)->labels_size(), 0);
}

TEST(SummarizeModel, ReadsLabelsOfAPooledHead) {
  FileContents files = TinyModel();
  const auto pooled = [](const std::string& head) {
    return Config(R"("id2label":{"0":"bad","1":"good"},"thaw_pooled_head":)" + head);
  };
  files["config.json"] = pooled(R"({"blocks":1})");
  // Rows for other models are no weights.
  files["features.safetensors"] = TinySafetensors("[6]");
  const auto summary = Summarize(files);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->head(), v1::ModelSummary::CLASSIFIER);
  EXPECT_THAT(summary->labels(), ElementsAre("bad", "good"));
  EXPECT_EQ(summary->blocks(), 1);
  EXPECT_EQ(summary->parameters(), Summarize(TinyModel())->parameters());
  for (const char* head : {"3", "{}", R"({"blocks":3})", R"({"blocks":-1})"}) {
    CheckRefused("config.json", pooled(head), "as thaw_pooled_head");
  }
}

TEST(SummarizeModel, HostileNumbersAreRefused) {
  for (const char* padding : {"9223372036854775807", "-9223372036854775808", "63", "-2"}) {
    CheckRefused("config.json",
                 R"({"model_type":"roberta","num_hidden_layers":2,"hidden_size":8,)"
                 R"("max_position_embeddings":64,"pad_token_id":)" +
                     std::string(padding) + "}",
                 "pad_token_id beyond its positions");
  }
}

TEST(SummarizeModel, MessagesEndBetweenCharacters) {
  std::string name(99, 'x');
  name += "\u00e9\u00e9";
  const std::string header = "{\"" + name + "\":{}}";
  std::string file(8, '\0');
  file[0] = static_cast<char>(header.size());
  CheckRefused("model.safetensors", file + header, std::string(99, 'x'));
  FileContents files = TinyModel();
  files["model.safetensors"] = file + header;
  const std::string message(Summarize(files).status().message());
  EXPECT_EQ(CleanText(message, message.size()), message);
}

TEST(SummarizeModel, TellsWhatAModelCanDo) {
  using Summary = v1::ModelSummary;
  struct Case {
    std::string config;  // after {
    Summary::Head head;
    int32_t positions;
    int32_t blocks;
    int labels;
  };
  const std::string bert = R"("model_type":"bert","num_hidden_layers":2,"hidden_size":8,)"
                           R"("max_position_embeddings":64,"architectures":)";
  const std::string gpt2 =
      R"("model_type":"gpt2","n_layer":3,"n_embd":8,"n_positions":48,"architectures":)";
  for (
      const Case& one : std::vector<Case>{
          {bert + R"(["BertForMaskedLM"])", Summary::NONE, 64, 2, 0},
          {bert + R"(["BertForSequenceClassification"])", Summary::CLASSIFIER, 64, 2, 2},
          {bert + R"(["BertForSequenceClassification"],"num_labels":3)", Summary::CLASSIFIER, 64, 2,
           3},
          {bert + R"(["BertForSequenceClassification"],"id2label":{"0":"LABEL_0"})",
           Summary::REGRESSION, 64, 2, 0},
          {bert + R"(["BertForSequenceClassification"],"id2label":{"0":"a","1":"b"},)"
                  R"("problem_type":"multi_label_classification")",
           Summary::MULTI_LABEL_CLASSIFIER, 64, 2, 2},
          {gpt2 + R"(["GPT2LMHeadModel"])", Summary::LANGUAGE_MODEL, 48, 3, 0},
          {gpt2 + R"(["GPT2Model"])", Summary::NONE, 48, 3, 0},
          {gpt2 + "null", Summary::NONE, 48, 3, 0},
          // The first class is the one that wrote the directory, and names are read as the trainer
          // reads them, by their ends.
          {gpt2 + R"(["GPT2Model","GPT2LMHeadModel"])", Summary::NONE, 48, 3, 0},
          {gpt2 + R"(["GPT2LMHeadModelWithValue"])", Summary::NONE, 48, 3, 0},
          {gpt2 + R"(["GPT2ForSequenceClassification"],"id2label":null)", Summary::CLASSIFIER, 48,
           3, 2},
          {R"("model_type":"t5","num_layers":3,"d_model":8,"architectures":["T5WithLMHeadModel"])",
           Summary::SEQUENCE_TO_SEQUENCE, 0, 6, 0},
          {R"("model_type":"llama","num_hidden_layers":3,"hidden_size":8,)"
           R"("max_position_embeddings":64,"architectures":["LlamaForCausalLM"])",
           Summary::LANGUAGE_MODEL, 64, 3, 0},
          {R"("model_type":"t5","num_layers":3,"num_decoder_layers":2,"d_model":8,)"
           R"("architectures":["T5ForConditionalGeneration"])",
           Summary::SEQUENCE_TO_SEQUENCE, 0, 5, 0},
          {R"("model_type":"bloom","n_layer":3,"hidden_size":8,"architectures":["BloomForCausalLM"])",
           Summary::LANGUAGE_MODEL, 0, 3, 0},
          {R"("model_type":"distilbert","n_layers":3,"dim":8,"max_position_embeddings":40)",
           Summary::NONE, 40, 3, 0},
          {R"("model_type":"roberta","num_hidden_layers":3,"hidden_size":8,)"
           R"("max_position_embeddings":42,"pad_token_id":1)",
           Summary::NONE, 40, 3, 0}}) {
    SCOPED_TRACE(one.config);
    FileContents files = TinyModel();
    files["config.json"] = "{" + one.config + "}";
    const auto summary = Summarize(files);
    ASSERT_TRUE(summary.ok()) << summary.status();
    EXPECT_EQ(summary->head(), one.head);
    EXPECT_EQ(summary->max_positions(), one.positions);
    EXPECT_EQ(summary->blocks(), one.blocks);
    EXPECT_EQ(summary->labels_size(), one.labels);
    EXPECT_FALSE(summary->chat_template());
  }
}

TEST(SummarizeModel, SeesChatTemplates) {
  FileContents files = TinyModel();
  files["tokenizer_config.json"] = R"({"chat_template":null})";
  EXPECT_FALSE(Summarize(files)->chat_template());
  files["tokenizer_config.json"] = R"({"chat_template":"{{ messages }}"})";
  EXPECT_TRUE(Summarize(files)->chat_template());
  files.erase("tokenizer_config.json");
  files["chat_template.jinja"] = "{{ messages }}";
  EXPECT_TRUE(Summarize(files)->chat_template());
}

TEST(SummarizeModel, OnlyAwdLstmIsAModelWithoutWeights) {
  FileContents files = TinyModel();
  files.erase("model.safetensors");
  const absl::Status status = Summarize(files).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("of type bert hold no .safetensors"));
  files["config.json"] = R"({"model_type":"awd_lstm","num_hidden_layers":3,"hidden_size":8})";
  const auto summary = Summarize(files);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->parameters(), 0);
  EXPECT_EQ(summary->blocks(), 3);
}

TEST(SummarizeModel, RefusesHostileConfigs) {
  CheckRefused("config.json", Config(R"("hidden_size":9)"), "no JSON");
  CheckRefused("config.json", std::string(1 << 21, ' '), "1 MiB");
  CheckRefused("config.json", std::string(100'000, '['), "no JSON");
  const std::string head = R"("architectures":["XForSequenceClassification"],"id2label":)";
  CheckRefused("config.json", Config(head + R"({"1":"a"})"), "0, 1, 2");
  CheckRefused("config.json", Config(head + R"({"0":1})"), "numbers to names");
  CheckRefused("config.json", Config(head + "[]"), "no object");
  CheckRefused("config.json", Config(R"("architectures":"Bert")"), "no array");
  CheckRefused("config.json", Config(R"("architectures":[1])"), "no array of names");
}

// Read as strictly as a trainer reads them.
TEST(SummarizeModel, RefusesHostileHeaders) {
  for (const std::string& bytes :
       {std::string("short"), std::string(8, '\xff') + "{}",
        std::string("\x09\0\0\0\0\0\0\0{}", 10), std::string("\x02\0\0\0\0\0\0\0[]", 10),
        TinySafetensors("[-1]"), TinySafetensors("[4]"), TinySafetensors("[4294967296,4294967296]"),
        TinySafetensors("7"), TinySafetensors() + "behind the data"}) {
    CheckRefused("model.safetensors", bytes, "model.safetensors that cannot be used: ");
  }
}

}  // namespace
}  // namespace thaw
