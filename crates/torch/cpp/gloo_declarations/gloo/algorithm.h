// Stands in for gloo's header, which the libtorch wheel lacks. `ProcessGroupGloo.hpp` names these types in declarations alone: what is
// behind them is in libtorch_cpu.so. Checked against libtorch 2.11 (`static_assert` in process_group.cpp).
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>
