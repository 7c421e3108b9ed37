//! Compiles the C++ shim against the headers of the libtorch that torch-sys links, and lets this crate's tests find it.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // torch-sys publishes the library folder to its immediate dependents only, under its `links` name.
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells its dependents where libtorch is");
    let include = PathBuf::from(&lib).join("../include");
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .include("cpp/gloo_declarations")
        .file("cpp/adamw_8bit.cpp")
        .file("cpp/adamw_stored.cpp")
        .file("cpp/attention.cpp")
        .file("cpp/attention_kernel.cpp")
        .file("cpp/block_allocator.cpp")
        .file("cpp/few_rows.cpp")
        .file("cpp/few_rows_bf16.cpp")
        .file("cpp/geglu.cpp")
        .file("cpp/gradient_checkpoint.cpp")
        .file("cpp/foreach.cpp")
        .file("cpp/gradient_hook.cpp")
        .file("cpp/group_norm.cpp")
        .file("cpp/group_norm_kernel.cpp")
        .file("cpp/low_rank.cpp")
        .file("cpp/low_rank_kernel.cpp")
        .file("cpp/process_group.cpp")
        .file("cpp/products.cpp")
        .file("cpp/profiler.cpp")
        .file("cpp/rounding.cpp")
        .file("cpp/tf32.cpp")
        .file("cpp/unfolded_convolution.cpp")
        .file("cpp/version.cpp")
        .file("cpp/windows_bf16.cpp")
        .opt_level(3)
        // A product and a sum in one rounding would not be what tensor operations give.
        .flag("-ffp-contract=off")
        .compile("sdtrain_shim");
    println!("cargo:rustc-link-arg=-Wl,-rpath={lib}");
}
