// The shim's one calling convention: 0 is success; otherwise `sd_last_error()` tells why, for this thread.
#pragma once
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <string>

using tensor = at::Tensor *;

std::string &sd_error_slot();

// Runs `body` and turns every C++ exception into a status: none may cross into Rust.
template <typename Body> int sd_guard(Body &&body) {
  try {
    body();
    return 0;
  } catch (const c10::Error &error) {
    sd_error_slot() = error.what_without_backtrace();
  } catch (const std::exception &error) {
    sd_error_slot() = error.what();
  } catch (...) {
    sd_error_slot() = "an exception of unknown type";
  }
  return 1;
}

// Throws for a callback into Rust that returned `number`, nonzero: `callback_error.rs` finds its error by it.
inline void sd_check_callback(int number) { TORCH_CHECK(number == 0, "a callback failed: error ", number); }

// For the backward pass of a node that computes by itself: what it gives has no history.
inline void sd_check_first_derivative(const char *name) { TORCH_CHECK(!c10::GradMode::is_enabled(), name, " has no second derivative"); }
