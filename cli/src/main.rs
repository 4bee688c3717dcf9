//! The `keyforge` command; what it does is in `keyforge_cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyforge_cli::run(std::env::args_os())
}
