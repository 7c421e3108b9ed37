// TF32 on and off: tch has no call for it, and libtorch keeps it in its global context.
#include "shim.h"
#include <ATen/Context.h>

extern "C" {
int sd_allow_tf32(int allowed) {
  return sd_guard([&] {
    at::globalContext().setAllowTF32CuBLAS(allowed != 0);
    at::globalContext().setAllowTF32CuDNN(allowed != 0);
  });
}
}
