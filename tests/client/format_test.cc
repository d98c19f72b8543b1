#include "client/cli/format.h"

#include "client/cli/completion.h"
#include "client/cli/console.h"
#include "gmock/gmock.h"

namespace thaw {
namespace {

TEST(FormatTest, Figures) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(90'868'376), "86.7 MiB");
  EXPECT_EQ(FormatCount(22'713'216), "22,713,216");
  EXPECT_EQ(FormatCount(-1'000), "-1,000");
  EXPECT_EQ(FormatCount(-100), "-100");
  EXPECT_EQ(FormatDuration(0.42), "0.4 s");
  EXPECT_EQ(FormatDuration(59.4), "59 s");
  EXPECT_EQ(FormatDuration(187), "3:07");
  EXPECT_EQ(FormatDuration(7387), "2:03:07");
  EXPECT_EQ(FormatDuration(-1), "?");
  EXPECT_EQ(FormatMetric("eval_accuracy", 0.815), "81.5 %");
  EXPECT_EQ(FormatMetric("macro_f1", 0.5), "50.0 %");
  EXPECT_EQ(FormatMetric("loss", 0.41234), "0.4123");
}

TEST(FormatTest, NothingSteersTheTerminal) {
  EXPECT_EQ(Printable("a\x1b[2Jb\r\n\x7f"), "a [2Jb   ");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "31m é ✓"),
            " 31m é ✓");
}

TEST(FormatTest, ClipsBetweenCharacters) {
  EXPECT_EQ(Clip("éèê", 3), "éèê");
  EXPECT_EQ(Clip("éèêë", 3), "éè…");
  EXPECT_EQ(Clip("abc", 0), "");
}

TEST(FormatTest, BarsStayWithinTheirWidth) {
  for (const double share : {-1.0, 0.0, 0.5, 1.0, 7.0, 0.0 / 0.0}) {
    EXPECT_EQ(Columns(Bar(share, 10)), 10) << share;
  }
  EXPECT_EQ(Bar(0.5, 4), "━━──");
}

TEST(FormatTest, TablesAlign) {
  EXPECT_EQ(Table({{"name", ">rows"}, {"é", "1"}, {"longer", "1000"}}),
            "name    rows\né          1\nlonger  1000");
}

TEST(ConsoleTest, AStatusLineIsWrittenOverAndKeptBelowLines) {
  std::FILE* file = std::tmpfile();
  {
    Console console(file, true, 12);
    console.Status("one");
    console.Status("a status that is too long");
    console.Line("a line");
    console.ClearStatus();
  }
  std::rewind(file);
  char text[400] = {};
  const size_t size = std::fread(text, 1, sizeof text, file);
  std::fclose(file);
  EXPECT_EQ(std::string(text, size),
            "\r\x1b[Kone\r\x1b[Ka status t…\r\x1b[Ka line\n\r\x1b[Ka status t…\r\x1b[K");
}

TEST(ConsoleTest, NoStatusWhereThereIsNoTerminal) {
  std::FILE* file = std::tmpfile();
  {
    Console console(file, false, 80);
    console.Status("one");
    console.Line("a line");
  }
  EXPECT_EQ(std::ftell(file), 7);
  std::fclose(file);
}

TEST(CompletionTest, KnowsEveryEntry) {
  const std::string script =
      BashCompletion({{"", {"submit", "model"}}, {"model import", {"--name"}}});
  EXPECT_THAT(script, testing::HasSubstr("'') words='submit model' ;;"));
  EXPECT_THAT(script, testing::HasSubstr("'model import') words='--name' ;;"));
}

}  // namespace
}  // namespace thaw
