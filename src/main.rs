//! The binary: everything is in the library.

use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Once a process, before any TLS; it fails only where one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    fleetgate::cli::main()
}
