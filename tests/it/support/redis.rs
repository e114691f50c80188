//! Real Redis servers, each on a loopback address of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::place::{free_ports, fresh_address};
use super::process::Process;
use super::{skip, wait};

const START: Duration = Duration::from_secs(30);

/// A Redis that keeps nothing on disk.
pub struct Redis {
    pub address: SocketAddr,
    arguments: Vec<String>,
    folder: TempDir,
    process: Option<Process>,
}

impl Redis {
    /// One that takes connections; `None` (said aloud) where no Redis can be had.
    pub async fn start() -> Option<Self> {
        Self::start_with(|at| vec!["--port".to_owned(), at.port().to_string()]).await
    }

    /// As [`Self::start`], with these arguments for its address.
    pub async fn start_with(arguments: impl FnOnce(SocketAddr) -> Vec<String>) -> Option<Self> {
        binary()?;
        let address = fresh_address();
        let [port] = free_ports(address);
        let address = SocketAddr::new(address, port);
        let (arguments, folder) = (arguments(address), tempfile::tempdir().unwrap());
        let mut redis = Self { address, arguments, folder, process: None };
        redis.start_again().await;
        Some(redis)
    }

    /// Starts it again, with nothing in it.
    pub async fn start_again(&mut self) {
        // The name that it is called by tells it what to do.
        let program = self.folder.path().join("redis-server");
        if !program.exists() {
            std::os::unix::fs::symlink(binary().unwrap(), &program).unwrap();
        }
        let mut command = Command::new(program);
        command.args(&self.arguments).current_dir(self.folder.path());
        command.args(["--bind", &self.address.ip().to_string(), "--save", "", "--appendonly", "no"]);
        self.process = Some(Process::start("redis", &command));
        let address = self.address;
        wait::until(START, "Redis", || async move { TcpStream::connect(address).await.is_ok() }).await;
    }

    /// Stops it, so that it answers nobody and hangs up on nobody.
    pub fn pause(&mut self) {
        self.process.as_mut().unwrap().signal("STOP");
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.as_mut().unwrap().kill();
    }
}

/// The server as `redis-tools` of Debian has it.
fn binary() -> Option<PathBuf> {
    let path = Path::new("/usr/bin/redis-check-rdb");
    if path.is_file() {
        return Some(path.into());
    }
    skip("Redis", "scripts/need redis-check-rdb=redis-tools");
    None
}
