// What the worker asks of NVIDIA's driver library, without a driver. FAKE_CUDA_GPUS says how many
// GPUs there are; unset: two.
#include <cstddef>
#include <cstdio>
#include <cstdlib>

extern "C" {

int cuInit(unsigned /*flags*/) { return 0; }

int cuDeviceGetCount(int* count) {
  const char* gpus = std::getenv("FAKE_CUDA_GPUS");
  *count = gpus != nullptr ? std::atoi(gpus) : 2;
  return 0;
}

int cuDeviceGetName(char* name, int length, int device) {
  std::snprintf(name, static_cast<size_t>(length), "Fake GPU %d", device);
  return 0;
}

int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  *bytes = (size_t{1} << 30) * static_cast<size_t>(device + 1);
  return 0;
}

}  // extern "C"
