// The version of libtorch that this was built against.
#include "shim.h"
#include <torch/version.h>

extern "C" {
const char* sd_torch_version() { return TORCH_VERSION; }
}
