//! The `efibed` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    efibed::cli::main(std::env::args_os())
}
