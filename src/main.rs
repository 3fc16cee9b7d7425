use std::process::ExitCode;

fn main() -> ExitCode {
    vidgen::cli::main()
}
