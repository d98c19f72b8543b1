// What bitsandbytes has recorded in tests/data/nf4.
#include "worker/model/nf4.h"

#include <ATen/Parallel.h>

#include "gmock/gmock.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using torch::Tensor;

class Nf4Test : public testing::Test {
 protected:
  Nf4Test()
      : file_(SafetensorsFile::Open(FixtureDirectory("../nf4") + "/matrices.safetensors").value()) {
  }

  Tensor Recorded(const std::string& name) const {
    const TensorInfo* info = file_->Find(name);
    if (info == nullptr) throw std::runtime_error(name + " was not recorded");
    return ViewTensor(file_, *info);
  }
  // Without the scope of the single tensors.
  std::vector<std::string> Matrices() const {
    std::vector<std::string> names;
    for (const TensorInfo& tensor : file_->tensors()) {
      if (tensor.name.find('.') == std::string::npos) names.push_back(tensor.name);
    }
    return names;
  }

 private:
  std::shared_ptr<const SafetensorsFile> file_;
};

void ExpectSameBits(const Tensor& found, const Tensor& expected, const std::string& what) {
  ASSERT_EQ(found.scalar_type(), expected.scalar_type()) << what;
  EXPECT_TRUE(at::equal(found.flatten(), expected.flatten())) << what;
}

TEST_F(Nf4Test, TablesAreTheRecordedOnes) {
  ExpectSameBits(DynamicMap(), Recorded("plain.double.weight.nested_quant_map"), "nested map");
  ExpectSameBits(torch::tensor(at::ArrayRef<float>(kNf4Table.data(), 16)),
                 Recorded("plain.double.weight.quant_map"), "map");
}

TEST_F(Nf4Test, CodesScalesAndNumbersAreTheRecordedBits) {
  const std::vector<std::string> names = Matrices();
  ASSERT_EQ(names.size(), 7u);
  for (const std::string& name : names) {
    for (const bool nested : {true, false}) {
      const std::string scope = name + (nested ? ".double" : ".single");
      for (const int threads : {1, 2}) {
        at::set_num_threads(threads);
        const Nf4Matrix matrix = QuantiseNf4(Recorded(name), false, nested);
        ExpectSameBits(matrix.codes, Recorded(scope + ".weight"), scope);
        ExpectSameBits(matrix.scales, Recorded(scope + ".weight.absmax"), scope + " absmax");
        if (nested) {
          ExpectSameBits(matrix.nested_scales, Recorded(scope + ".weight.nested_absmax"),
                         scope + " nested absmax");
        }
        ExpectSameBits(Dequantised(matrix), Recorded(scope + ".dequantised"),
                       scope + " dequantised");
      }
    }
  }
}

TEST_F(Nf4Test, AMatrixThatIsInputMajorIsStoredTransposed) {
  const Tensor weight = Recorded("rest");
  const Nf4Matrix straight = QuantiseNf4(weight, false);
  const Nf4Matrix turned = QuantiseNf4(weight.t().contiguous(), true);
  EXPECT_TRUE(at::equal(straight.codes, turned.codes));
  EXPECT_TRUE(at::equal(Dequantised(turned), Dequantised(straight).t()));
}

TEST_F(Nf4Test, AStandInCarriesItsMatrixAndHasNoNumbers) {
  const Tensor weight = Recorded("plain");
  for (const bool input_major : {false, true}) {
    const auto matrix = std::make_shared<const Nf4Matrix>(QuantiseNf4(weight, input_major));
    const Tensor stand_in = Nf4Tensor(matrix);
    EXPECT_EQ(stand_in.sizes(), weight.sizes());
    EXPECT_EQ(stand_in.scalar_type(), torch::kFloat32);
    EXPECT_EQ(Nf4Of(stand_in), matrix.get());
    EXPECT_EQ(Nf4Of(stand_in.detach()), matrix.get());
    EXPECT_TRUE(at::equal(DenseForNow(stand_in, torch::kFloat32), Dequantised(*matrix)));
    EXPECT_TRUE(at::equal(DenseForNow(stand_in, torch::kBFloat16),
                          Dequantised(*matrix).to(torch::kBFloat16)));
    EXPECT_TRUE(at::equal(Dense(stand_in), Dequantised(*matrix)));
    EXPECT_TRUE(at::mm(weight, stand_in.t()).is_meta());
    EXPECT_THROW(stand_in.data_ptr<float>()[0] = 1, c10::Error);
  }
  EXPECT_EQ(Nf4Of(weight), nullptr);
  EXPECT_EQ(Nf4Of(weight.to(at::kMeta)), nullptr);
  EXPECT_TRUE(Dense(weight).is_same(weight));
}

// A matrix of numbers that are what codes stand for is given back as it is.
TEST_F(Nf4Test, QuantisingAgainChangesNothing) {
  const Tensor once = Dequantised(QuantiseNf4(Recorded("many"), false, /*nested=*/false));
  EXPECT_TRUE(at::equal(Dequantised(QuantiseNf4(once, false, /*nested=*/false)), once));
}

TEST_F(Nf4Test, TakesLittleMoreThanFourBitsANumber) {
  const Nf4Matrix matrix = QuantiseNf4(at::randn({512, 512}), false);
  EXPECT_EQ(matrix.bytes(), 512 * 512 / 2 + 512 * 512 / 64 + 4 * 16);
}

}  // namespace
}  // namespace thaw
