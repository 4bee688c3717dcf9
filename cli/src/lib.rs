//! The `keyforge` command: every process and every admin command in one binary.
//!
//! In reading order:
//!
//! * [`args`]: what can be asked for
//! * [`commands`]: one file per command; [`commands::dev`] is the first minute
//! * [`client`]: which control plane, and the way to it
//! * [`limit_syntax`], [`price_syntax`]: limits, dates and prices as people write them
//! * [`output`]: tables for people, JSON for programs
//! * [`errors`]: what went wrong and what to do next, and the exit code

pub mod args;
pub mod client;
pub mod commands;
pub mod errors;
pub mod limit_syntax;
pub mod output;
pub mod price_syntax;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::args::Cli;
use crate::errors::Failure;

/// How long work that nobody waits for any more may take before the process ends without it.
const LEFTOVERS: Duration = Duration::from_millis(500);

/// Does what a command line asks for. The exit code is 0, 1 (refused or failed) or 2 (the command line is wrong).
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" too; a closed terminal is no reason to fail over them.
            if error.use_stderr() {
                errors::print_usage(&error.render().to_string());
            } else {
                drop(error.print());
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(commands::run(cli.command));
            runtime.shutdown_timeout(LEFTOVERS);
            outcome
        }
        Err(error) => Err(Failure::refused(format!("cannot start: {error}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}
