# LibTorch as script/bootstrap unpacks it from the wheel: libtorch_cpu and libc10 alone. No find_package(Torch): its
# config demands a CUDA toolkit, and linking CUDA would keep one binary from serving hosts without it.
set(LIBTORCH ${THAW_DEPS}/libtorch-2.13.0 CACHE PATH "holds torch/{lib,include} and nvidia/")
if(NOT EXISTS ${LIBTORCH}/torch/lib/libtorch_cpu.so)
  message(FATAL_ERROR "LibTorch is not in ${LIBTORCH}: run script/bootstrap, or set THAW_DEPS")
endif()
add_library(thaw_c10 SHARED IMPORTED)
set_target_properties(thaw_c10 PROPERTIES IMPORTED_LOCATION ${LIBTORCH}/torch/lib/libc10.so)
add_library(thaw_torch SHARED IMPORTED)
set_target_properties(thaw_torch PROPERTIES
  IMPORTED_LOCATION ${LIBTORCH}/torch/lib/libtorch_cpu.so
  INTERFACE_INCLUDE_DIRECTORIES "${LIBTORCH}/torch/include;${LIBTORCH}/torch/include/torch/csrc/api/include"
  INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${LIBTORCH}/torch/include;${LIBTORCH}/torch/include/torch/csrc/api/include"
  INTERFACE_COMPILE_DEFINITIONS "_GLIBCXX_USE_CXX11_ABI=1"
  INTERFACE_LINK_OPTIONS "-Wl,--allow-shlib-undefined"
  INTERFACE_LINK_LIBRARIES thaw_c10)
