// Flags of `thaw`, and nothing else: each command lies in a file of its own.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "client/cli/commands.h"
#include "client/cli/completion.h"
#include "client/cli/output.h"
#include "client/cli/task_names.h"
#include "common/base/status.h"
#include "common/spec/preset_program.h"

namespace thaw {
namespace {

constexpr char kFooter[] = R"(
Examples:
  thaw up                                                   a server and a worker on this machine
  thaw model import ~/models/minilm --name minilm           a Hugging Face directory
  thaw dataset import reviews.jsonl --name reviews          {"text": ..., "label": ...} a line
  thaw submit --model minilm --data reviews --method gradual --watch
  thaw fetch JOB --to my-model                              what from_pretrained loads
  thaw predict --model JOB "I'd watch it again"

Exit codes: 0 ok; 1 the job failed or was cancelled; 2 usage; 3 server not reached; 130 interrupted.
Environment: THAW_SERVER, THAW_TOKEN_FILE.)";

using Command = std::function<ExitCode(const Session&)>;

// Everything that the command line fills in.
struct CommandLine {
  ConnectionOptions connection;
  bool json = false;
  ImportOptions import;
  ArtifactsOptions artifacts;
  SubmitOptions submit;
  std::vector<std::string> labels;
  ListOptions list;
  SteerOptions steer;
  MetricsOptions metrics;
  FetchOptions fetch;
  PredictOptions predict;
  UpOptions up;
  std::string job;
  std::string worker;
  std::string shell;
  int64_t after_sequence = 0;
  int attempt = 0;

  Command command;           // what was chosen
  bool needs_server = true;  // false for up and completion
};

CLI::Validator AboveZero() {
  return CLI::Validator(
      [](std::string& text) {
        double value = 0;
        const bool number = CLI::detail::lexical_cast(text, value);
        return number && value > 0 ? "" : text + " is no number above 0";
      },
      "above 0");
}

CLI::Validator NotNegative() {
  return CLI::Validator(
      [](std::string& text) {
        double value = 0;
        const bool number = CLI::detail::lexical_cast(text, value);
        return number && value >= 0 ? "" : text + " is no number from 0 on";
      },
      "0 or more");
}

CLI::App* AddCommand(CLI::App* parent, CommandLine* line, const std::string& name,
                     const std::string& description, Command command) {
  CLI::App* app = parent->add_subcommand(name, description);
  app->fallthrough();
  app->callback([line, command] { line->command = command; });
  return app;
}

void AddJob(CLI::App* app, CommandLine* line) {
  app->add_option("job", line->job, "id of the job, or its name")->required();
}

void AddArtifactCommands(CLI::App* root, CommandLine* line, v1::Artifact::Kind kind) {
  const std::string word = KindWord(kind);
  CLI::App* group = root->add_subcommand(word, kind == v1::Artifact::RESULT
                                                   ? "list, show or delete results of jobs"
                                                   : "import, list, show or delete " + word + "s");
  group->require_subcommand(1)->fallthrough();
  const auto with_kind = [line, kind](auto run) {
    return [=](const Session& session) {
      line->artifacts.kind = kind;
      return run(session, line->artifacts);
    };
  };
  AddCommand(group, line, "list", "newest first", with_kind(RunListArtifacts));
  for (const auto& [name, description, run] :
       {std::tuple("show", "everything that is known of one", &RunShowArtifact),
        std::tuple("delete", "remove one that no unfinished job uses and nothing builds on",
                   &RunDeleteArtifact)}) {
    AddCommand(group, line, name, description, with_kind(run))
        ->add_option(word, line->artifacts.artifact, "its id or name")
        ->required();
  }
  if (kind == v1::Artifact::RESULT) return;
  const bool model = kind == v1::Artifact::MODEL;
  CLI::App* import =
      AddCommand(group, line, "import",
                 model ? "upload a Hugging Face directory"
                       : "upload a file of rows and see what is in it, every bad row too",
                 [line, kind](const Session& session) {
                   line->import.kind = kind;
                   return RunImport(session, line->import);
                 });
  import->add_option("path", line->import.path, model ? "the directory" : "the file")->required();
  import->add_option("--name", line->import.name,
                     "shown in lists; default: the last part of the path");
  if (model) {
    import->add_option("--base", line->import.base,
                       "of an adapter or a delta: id or name of the model that it builds on");
    return;
  }
  import->add_option("--task", line->import.task,
                     "what the rows are examples of: " + TaskWords() + "; default classification");
  import->add_option("--format", line->import.format,
                     "how the file is written: " + FormatWords() + "; default: by its ending");
  v1::DatasetColumns* columns = &line->import.columns;
  for (const auto& [flag, name, description] :
       {std::tuple("--text_column", columns->mutable_text_column(), "of the text; default text"),
        std::tuple("--label_column", columns->mutable_label_column(),
                   "of the label, or of the array of labels; default label"),
        std::tuple("--text_pair_column", columns->mutable_text_pair_column(),
                   "of a second text; default none"),
        std::tuple("--target_column", columns->mutable_target_column(),
                   "of the number (default label) or of the target text (default target)"),
        std::tuple("--prompt_column", columns->mutable_prompt_column(),
                   "of the prompt; default prompt"),
        std::tuple("--completion_column", columns->mutable_completion_column(),
                   "of the completion; default completion"),
        std::tuple("--messages_column", columns->mutable_messages_column(),
                   "of conversations; default messages where the rows have no prompt"),
        std::tuple("--source_column", columns->mutable_source_column(),
                   "of the source text; default source")}) {
    import->add_option(flag, *name, std::string("column ") + description);
  }
  import->footer(R"(
Examples:
  thaw dataset import reviews.jsonl --text_column review --label_column stars
  thaw dataset import reviews.csv
  thaw dataset import chats.jsonl --task completion
  thaw dataset import pairs.jsonl --task seq2seq --source_column de --target_column en)");
}

// What `thaw submit` and `thaw plan` take alike.
void AddSpecOptions(CLI::App* app, CommandLine* line) {
  SubmitOptions* options = &line->submit;
  app->add_option("file", options->spec_file, "JobSpec as JSON; models and datasets by id or name");
  app->add_option("--model", options->model, "model, result or job to start from, by id or name");
  app->add_option("--data", options->data, "dataset to train on, by id or name");
  app->add_option("--task", options->task,
                  "what to learn: " + TaskWords() + "; default: what the dataset was imported as");
  app->add_option("--method", options->method, "program by name; see below");
  app->add_option("--epochs", options->epochs, "passes over the data, of the last phase")
      ->check(AboveZero());
  app->add_option("--epochs_per_phase", options->epochs_per_phase,
                  "gradual, head_then_full, chain_thaw: passes in each phase before the last")
      ->check(AboveZero());
  app->add_option("--learning_rate", options->learning_rate, "peak rate of the topmost group")
      ->check(AboveZero());
  app->add_option("--last_blocks", options->last_blocks, "partial: blocks that train")
      ->check(AboveZero());
  app->add_option("--pooling", options->pooling, "features: mean (default), cls, last or max");
  app->add_option("--layer", options->layer,
                  "features: hidden states after so many blocks; default: after all")
      ->check(NotNegative());
  app->add_option("--solver", options->solver,
                  "features: adamw (default), or lbfgs to convergence");
  app->add_option("--hidden", options->hidden,
                  "features, adamw: width of a hidden layer; default: none")
      ->check(AboveZero());
  app->add_flag("--export_features", options->export_features,
                "features: the result holds the features of all rows too");
  app->add_option("--batch", options->batch, "examples per optimizer step")->check(AboveZero());
  app->add_option("--max_length", options->max_length, "longest input in tokens")
      ->check(AboveZero());
  app->add_option("--seed", options->seed, "of data order, dropout and fresh weights")
      ->check(NotNegative());
  app->add_option("--precision", options->precision,
                  "fp32 (default), or bf16: faster on processors that multiply it");
  app->add_option("--validation", options->validation, "dataset to evaluate on, by id or name");
  app->add_option("--validation_fraction", options->validation_fraction,
                  "share of the dataset kept back for evaluation")
      ->check(CLI::Range(0.0, 0.5));
  app->add_option("--metric", options->metric,
                  "what decides the best weights: " + MetricWords() + "; default by task");
  app->add_option("--tokenizer", options->tokenizer,
                  "model or result whose tokenizer replaces the model's");
  app->add_flag("--per_document", options->per_document,
                "lm: each text a row of its own instead of joined ones");
  app->add_option("--name", options->name, "shown in lists");
  app->add_option("--priority", options->priority, "-100 to 100; higher runs first");
  app->add_option("--device", options->device, "cpu or cuda; default: cuda where there is one");
  app->add_option("--label", line->labels, "key=value, for filters; may be repeated");
  app->add_option("--request_id", options->request_id,
                  "the same id with the same job submits once");
}

void AddPlan(CLI::App* root, CommandLine* line) {
  SubmitOptions* options = &line->submit;
  CLI::App* app =
      AddCommand(root, line, "plan", "what a training would take: tokens, steps, memory, time",
                 [options](const Session& session) { return RunPlan(session, *options); });
  AddSpecOptions(app, line);
  app->footer(R"(
A worker reads the data and tries a few steps of every phase; nothing is trained.

Examples:
  thaw plan --model minilm --data reviews --method gradual
  thaw plan job.json)");
}

void AddSubmit(CLI::App* root, CommandLine* line) {
  SubmitOptions* options = &line->submit;
  CLI::App* app =
      AddCommand(root, line, "submit", "submit a job: a JSON file, or a program written here",
                 [options](const Session& session) { return RunSubmit(session, *options); });
  AddSpecOptions(app, line);
  app->add_flag("--validate_only", options->validate_only,
                "check and resolve only; submit nothing");
  app->add_flag("--watch", options->watch, "stay and watch it to its end");
  std::string methods;
  for (const PresetWord& one : PresetWords()) {
    methods += "  " + std::string(one.name) +
               std::string(26 - std::min<size_t>(24, std::strlen(one.name)) - 2, ' ') +
               one.description + "\n";
  }
  app->footer("\nMethods (--validate_only shows the phases that they become):\n" + methods + R"(
Examples:
  thaw submit --model minilm --data reviews --method gradual --watch
  thaw submit --model minilm --data reviews --method full --epochs 3 --learning_rate 1e-4
  thaw submit --model gpt2 --data chats --task completion --method full --watch
  thaw submit job.json --validate_only)");
}

void AddJobCommands(CLI::App* root, CommandLine* line) {
  const auto on_job = [line](ExitCode (*run)(const Session&, const std::string&)) {
    return [=](const Session& session) { return run(session, line->job); };
  };
  for (const auto& [name, description, run] :
       {std::tuple("watch", "live progress of a job, then its loss curve", &RunWatch),
        std::tuple("get", "everything that is known of a job", &RunGet),
        std::tuple("cancel", "end a job", &RunCancel),
        std::tuple("pause", "free the worker and keep a checkpoint", &RunPause),
        std::tuple("resume", "queue a paused job again", &RunResume)}) {
    AddJob(AddCommand(root, line, name, description, on_job(run)), line);
  }
  CLI::App* steer =
      AddCommand(root, line, "steer", "act on a training that runs",
                 [line](const Session& session) { return RunSteer(session, line->steer); });
  steer->add_option("job", line->steer.job, "id of the job, or its name")->required();
  steer
      ->add_option("action", line->steer.action,
                   "checkpoint, next_phase, scale_rate, extend_epochs, extend_steps, or stop: end "
                   "it with its best kept")
      ->required()
      ->check(CLI::IsMember(
          {"checkpoint", "next_phase", "scale_rate", "extend_epochs", "extend_steps", "stop"}));
  steer
      ->add_option("amount", line->steer.amount,
                   "scale_rate: what rates are multiplied by; extend_…: by how much")
      ->check(AboveZero());
  CLI::App* list =
      AddCommand(root, line, "list", "jobs, newest first",
                 [line](const Session& session) { return RunList(session, line->list); });
  list->add_option("--state", line->list.states, "only these states; may be repeated");
  list->add_option("--label", line->labels, "key=value: only jobs that carry it; may be repeated");
  list->add_option("--limit", line->list.limit, "most jobs; default 20, 0 for all")
      ->check(NotNegative());
  CLI::App* events =
      AddCommand(root, line, "events", "a job's history", [line](const Session& session) {
        return RunEvents(session, line->job, line->after_sequence);
      });
  AddJob(events, line);
  events->add_option("--after", line->after_sequence, "only events after this number")
      ->check(NotNegative());
  CLI::App* logs = AddCommand(
      root, line, "logs", "what the trainer wrote",
      [line](const Session& session) { return RunLogs(session, line->job, line->attempt); });
  AddJob(logs, line);
  logs->add_option("--attempt", line->attempt, "from 1; default: the latest")->check(AboveZero());
  CLI::App* metrics =
      AddCommand(root, line, "metrics", "curves of a job's metrics",
                 [line](const Session& session) { return RunMetrics(session, line->metrics); });
  metrics->add_option("job", line->metrics.job, "id of the job, or its name")->required();
  metrics->add_option("names", line->metrics.names,
                      "series, such as loss learning_rate eval_accuracy; default: loss");
  metrics
      ->add_option("--max_points", line->metrics.max_points,
                   "most points of a series; default 1000")
      ->check(CLI::Range(1, 10000));
}

void AddGenerate(CLI::App* predict, PredictOptions* options) {
  predict->add_flag("--generate", options->generate, "new text that follows each text");
  predict->add_flag("--chat", options->chat, "generate: each text is a message of the user");
  predict
      ->add_option("--max_new_tokens", options->max_new_tokens, "generate: 1 to 32768, default 256")
      ->check(AboveZero());
  predict
      ->add_option("--temperature", options->temperature,
                   "generate: 0 (default) takes the most probable token, up to 10 samples")
      ->check(NotNegative());
  predict->add_option("--top_k", options->top_k, "sampling: from so many most probable tokens")
      ->check(AboveZero());
  predict
      ->add_option("--top_p", options->top_p,
                   "sampling: from the most probable tokens of together this probability")
      ->check(NotNegative());
  predict
      ->add_option("--min_p", options->min_p,
                   "sampling: without tokens below this share of the most probable one")
      ->check(NotNegative());
  predict
      ->add_option("--repetition_penalty", options->repetition_penalty,
                   "generate: above 1 makes what occurred less probable")
      ->check(AboveZero());
  predict->add_option("--stop", options->stop, "generate: end before this string; may be repeated")
      ->allow_extra_args(false);
  predict->add_option("--seed", options->seed, "sampling: default 42")->check(NotNegative());
  predict->add_flag("--ignore_end", options->ignore_end,
                    "generate: go on after the end of the text, for measuring");
}

void AddUseCommands(CLI::App* root, CommandLine* line) {
  CLI::App* fetch =
      AddCommand(root, line, "fetch", "download a result (or model) and check every byte",
                 [line](const Session& session) { return RunFetch(session, line->fetch); });
  fetch->add_option("job", line->fetch.job_or_result, "job, result or model")->required();
  fetch->add_option("--to", line->fetch.directory, "directory; default: the result's id");
  fetch
      ->add_option(
          "--as", line->fetch.as,
          "stored (default), or full: with all weights, a delta put together with its base "
          "model")
      ->check(CLI::IsMember({"stored", "full"}));
  AddCommand(root, line, "reproduce",
             "run a training again and compare losses and weights, bit by bit",
             [line](const Session& session) { return RunReproduce(session, line->job); })
      ->add_option("job", line->job, "a training that has left a result: id or name")
      ->required();
  PredictOptions* options = &line->predict;
  CLI::App* predict =
      AddCommand(root, line, "predict",
                 "labels, vectors, probabilities or new text for each text: one line each",
                 [options](const Session& session) { return RunPredict(session, *options); });
  predict
      ->add_option("--model", options->model,
                   "job, result or model; a running job: its newest checkpoint")
      ->required();
  predict->add_option("texts", options->texts, "texts given here");
  predict->add_option("--file", options->file, "a text a line, or JSON Lines if it ends in .jsonl");
  predict->add_option("--data", options->data, "a dataset, by id or name");
  predict->add_option("--out", options->out, "write predictions.jsonl here instead of printing");
  predict->add_option("--text_column", options->text_column, "of a .jsonl file; default text");
  predict->add_option("--label_column", options->label_column, "of a .jsonl file; default label");
  predict->add_option("--max_length", options->max_length, "longest input in tokens")
      ->check(AboveZero());
  predict->add_option("--precision", options->precision,
                      "fp32 (default), or bf16: faster on processors that multiply it");
  predict->add_option("--weights", options->weights, "of a running job: best (default) or last");
  predict
      ->add_option("--average_with", options->average_with,
                   "labels: another model to average with; may be repeated")
      ->allow_extra_args(false);
  predict->add_flag("--embed", options->embed, "a vector for each text");
  predict->add_option("--pooling", options->pooling, "embed: mean (default), cls, last or max");
  predict->add_flag("--no_normalize", options->no_normalize, "embed: vectors keep their length");
  predict->add_flag("--score", options->score, "log-probability and perplexity of each text");
  predict->add_option("--completion", options->completion,
                      "score: only this, as it follows each text");
  predict->add_flag("--per_token", options->per_token, "score: of every token too (with --json)");
  AddGenerate(predict, options);
  predict->footer(R"(
Without --embed, --score or --generate the model decides: labels, new text, or vectors.

Examples:
  thaw predict --model my-job "what a film" "never again"
  thaw predict --model smollm --chat "Why is ice slippery?" --temperature 0.7 --top_p 0.9
  thaw predict --model minilm --embed --file texts.txt --out vectors.safetensors
  thaw predict --model result-0123456789abcdef --file new.jsonl --out answers.jsonl)");
}

void AddOperatorCommands(CLI::App* root, CommandLine* line) {
  AddCommand(root, line, "workers", "workers that the server knows", RunWorkers);
  AddCommand(root, line, "drain", "take a worker out: its attempts write checkpoints and go back",
             [line](const Session& session) { return RunDrain(session, line->worker); })
      ->add_option("worker", line->worker, "its name")
      ->required();
  CLI::App* up =
      AddCommand(root, line, "up", "run a server and a worker on this machine until Ctrl-C",
                 [line](const Session& session) { return RunUp(line->up, session.interrupts); });
  line->up.data_dir = DefaultDataDirectory();
  up->add_option("--data_dir", line->up.data_dir,
                 "where everything is kept; default " + line->up.data_dir);
  up->add_option("--listen", line->up.listen, "address of the service; default " + line->up.listen);
  up->add_option("--metrics_listen", line->up.metrics_listen,
                 "address of /metrics; default " + line->up.metrics_listen);
  up->parse_complete_callback([line] { line->needs_server = false; });
}

std::vector<std::string> WordsOf(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::App* child : app.get_subcommands(nullptr)) words.push_back(child->get_name());
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_positional()) words.push_back(option->get_name());
  }
  return words;
}

void AddCompletion(CLI::App* root, CommandLine* line) {
  CLI::App* app = AddCommand(
      root, line, "completion", "print a script that completes commands", [root](const Session&) {
        std::vector<CompletionEntry> entries = {{"", WordsOf(*root)}};
        for (const CLI::App* command : root->get_subcommands(nullptr)) {
          std::vector<std::string> words = WordsOf(*command);
          if (command->get_name() == "completion") words.push_back("bash");
          words.push_back("--json");
          entries.push_back({command->get_name(), words});
          for (const CLI::App* child : command->get_subcommands(nullptr)) {
            entries.push_back({command->get_name() + " " + child->get_name(), WordsOf(*child)});
          }
        }
        Print("%s", BashCompletion(entries).c_str());
        return kExitOk;
      });
  app->add_option("shell", line->shell, "bash")->required()->check(CLI::IsMember({"bash"}));
  app->parse_complete_callback([line] { line->needs_server = false; });
}

void AddGlobalFlags(CLI::App* app, CommandLine* line) {
  app->add_option("--server", line->connection.server,
                  "host:port; default THAW_SERVER, then the server of this machine, then "
                  "127.0.0.1:7433");
  app->add_option("--token_file", line->connection.token_file,
                  "file of the access token; default THAW_TOKEN_FILE, then the one of thaw up");
  app->add_option("--ca", line->connection.ca_file,
                  "PEM of the authority that signed the server's certificate");
  app->add_option("--cert", line->connection.certificate_file, "PEM of your own certificate");
  app->add_option("--key", line->connection.key_file, "PEM of its key");
  app->add_flag("--json", line->json, "one JSON object a line instead of text for people");
}

absl::Status TakeLabels(CommandLine* line) {
  for (const std::string& label : line->labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError("--label " + label + " is not key=value");
    }
    line->submit.labels[label.substr(0, equals)] = label.substr(equals + 1);
  }
  line->list.labels = line->submit.labels;
  return absl::OkStatus();
}

ExitCode Run(CommandLine* line, Interrupts* interrupts) {
  THAW_RETURN_IF_ERROR(TakeLabels(line));
  Console console(stdout);
  Session session;
  session.console = &console;
  session.interrupts = interrupts;
  session.json = line->json;
  std::unique_ptr<ThawClient> client;
  if (line->needs_server) {
    THAW_ASSIGN_OR_RETURN(client, ThawClient::Connect(line->connection));
    session.client = client.get();
  }
  return line->command(session);
}

int Main(int argc, char** argv) {
  Interrupts interrupts;
  CommandLine line;
  CLI::App app("Fine-tunes language models through a Thaw server.", "thaw");
  app.require_subcommand(1);
  app.footer(kFooter);
  app.set_version_flag("--version", THAW_VERSION);
  app.get_formatter()->column_width(26);
  AddGlobalFlags(&app, &line);
  AddOperatorCommands(&app, &line);
  AddArtifactCommands(&app, &line, v1::Artifact::MODEL);
  AddArtifactCommands(&app, &line, v1::Artifact::DATASET);
  AddArtifactCommands(&app, &line, v1::Artifact::RESULT);
  AddSubmit(&app, &line);
  AddPlan(&app, &line);
  AddJobCommands(&app, &line);
  AddUseCommands(&app, &line);
  AddCompletion(&app, &line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    const std::vector<std::string> rest = app.remaining();
    const std::string unknown =
        rest.empty() ? ""
                     : (app.get_subcommands().empty() ? "there is no command "
                                                      : "nothing is expected where it says ") +
                           rest[0];
    PrintError("thaw: %s; see thaw --help\n", unknown.empty() ? error.what() : unknown.c_str());
    return kExitUsage;
  }
  const ExitCode code = Run(&line, &interrupts);
  return code.ok() ? *code : ReportError(code.status(), line.json);
}

}  // namespace
}  // namespace thaw

int main(int argc, char** argv) { return thaw::Main(argc, argv); }
