//! Where gdb finds us.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::super::message::tell;
use super::super::temporary::Listed;
use crate::cli::Failure;

/// Where nobody says: the port that emulators and gdb's own manual have.
pub const DEFAULT: &str = "127.0.0.1:1234";

/// A place to wait at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A port of this machine's.
    Tcp(String),
}

impl Place {
    /// `unix:PATH`, `HOST:PORT`, or `:PORT` on the loopback address.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "expected unix:PATH, HOST:PORT, or :PORT on this machine alone".to_owned();
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        port.parse::<u16>().map_err(|_| wrong())?;
        Ok(Self::Tcp(if host.is_empty() { format!("{}:{port}", Ipv4Addr::LOCALHOST) } else { text.into() }))
    }

    /// Waits for gdb. Nobody else can connect then, and nothing is left in the file system.
    pub fn wait(&self) -> Result<OwnedFd, Failure> {
        match self {
            Self::Unix(path) => wait_at_path(path),
            Self::Tcp(address) => wait_at_port(address),
        }
        .map_err(|error| Failure::Output(format!("--gdb: {self}: {error}")))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

fn wait_at_path(path: &PathBuf) -> io::Result<OwnedFd> {
    let listener = UnixListener::bind(path)?;
    // Not before it is ours: a signal removes it.
    let listed = Listed::new(path)?;
    announce(&path.display().to_string());
    let accepted = listener.accept();
    fs::remove_file(path)?;
    drop(listed);
    Ok(accepted?.0.into())
}

fn wait_at_port(address: &str) -> io::Result<OwnedFd> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let listener = TcpListener::bind(&addresses[..])?;
    let address = listener.local_addr()?;
    if !is_loopback(address.ip()) {
        tell("efibed: anybody who reaches this address can read and change the guest until gdb has connected");
    }
    announce(&address.to_string());
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok(stream.into())
}

fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}

fn announce(place: &str) {
    tell(&format!(
        "efibed: waiting for gdb: (gdb) target remote {place}\n  while it is there, no limit of time is in force"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_paths_or_ports() {
        let tcp = |text: &str| Ok(Place::Tcp(text.into()));
        assert_eq!(Place::parse("unix:/tmp/s"), Ok(Place::Unix("/tmp/s".into())));
        assert_eq!(Place::parse("127.0.0.1:1234"), tcp("127.0.0.1:1234"));
        assert_eq!(Place::parse("[::1]:0"), tcp("[::1]:0"));
        assert_eq!(Place::parse(":99"), tcp("127.0.0.1:99"));
        for wrong in ["", "unix:", "1234", "localhost", "localhost:", "localhost:65536", "/tmp/s"] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }
}
