//! `lsync-agent`: the receiver of an lsyncd mirror, on standard input and output.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(lsync_agent::run(std::env::args_os().skip(1)))
}
