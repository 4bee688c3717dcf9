//! The `keyforge` command; what it does is in `keyforge_cli`.

use std::process::ExitCode;

/// A request makes many small allocations that another thread may free, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keyforge_cli::run(std::env::args_os())
}
