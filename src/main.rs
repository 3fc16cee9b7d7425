use std::process::ExitCode;

fn main() -> ExitCode {
    vidgen::nn::keep_memory();
    vidgen::cli::main()
}
