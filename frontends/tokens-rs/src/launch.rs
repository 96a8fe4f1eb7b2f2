//! What this process was started with: arguments, the secret, inherited sockets.

use std::env;
use std::io;
use std::net::TcpListener;
use std::os::unix::io::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

/// Inherited sockets start here, by the systemd convention (sd_listen_fds(3)).
const FIRST_INHERITED: RawFd = 3;

pub struct Launch {
    pub control: String,
    pub index: u32,
    pub incarnation: u64,
    pub secret: Vec<u8>,
    pub http: Vec<Listener>,
    /// A socket file, and TCP where ranks are on other machines.
    pub engine: Vec<Listener>,
}

/// A listening socket, ready for an event loop.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Launch {
    /// Read the command line, the environment and the inherited sockets; once. What was secret leaves the environment.
    pub fn from_process() -> Result<Self, String> {
        let arguments = Arguments::parse(env::args().skip(1))?;
        let secret = env::var("PHALANX_SECRET").unwrap_or_default();
        env::remove_var("PHALANX_SECRET");
        if secret.is_empty() {
            return Err("PHALANX_SECRET is not set: this program is started by `phalanx serve`".into());
        }
        let (mut http, mut engine) = (Vec::new(), Vec::new());
        for (name, descriptor) in inherited()? {
            // SAFETY: the environment named this descriptor as ours (LISTEN_PID is this process), and it is taken once.
            let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
            let listener = Listener::of(owned).map_err(|error| format!("inherited socket {name:?}: {error}"))?;
            match name.as_str() {
                "http" => http.push(listener),
                "engine" => engine.push(listener),
                _ => {}
            }
        }
        if http.is_empty() || engine.is_empty() {
            return Err("LISTEN_FDS gives no sockets named http and engine to this process".into());
        }
        let Arguments { control, index, incarnation } = arguments;
        Ok(Self { control, index, incarnation, secret: secret.into_bytes(), http, engine })
    }
}

impl Listener {
    fn of(descriptor: OwnedFd) -> io::Result<Self> {
        let unix = UnixListener::from(descriptor);
        // Only of a socket file is there a Unix address.
        if unix.local_addr().is_ok() {
            unix.set_nonblocking(true)?;
            return Ok(Self::Unix(unix));
        }
        let tcp = TcpListener::from(OwnedFd::from(unix));
        tcp.local_addr()?;
        tcp.set_nonblocking(true)?;
        Ok(Self::Tcp(tcp))
    }
}

/// Name and descriptor of each inherited socket.
fn inherited() -> Result<Vec<(String, RawFd)>, String> {
    let taken = |name| {
        let value = env::var(name).unwrap_or_default();
        env::remove_var(name);
        value
    };
    let (pid, names, count) = (taken("LISTEN_PID"), taken("LISTEN_FDNAMES"), taken("LISTEN_FDS"));
    if pid != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    named(&names, &count)
}

fn named(names: &str, count: &str) -> Result<Vec<(String, RawFd)>, String> {
    let names: Vec<&str> = names.split(':').collect();
    if count.parse() != Ok(names.len()) {
        return Err(format!("LISTEN_FDS is {count:?}, and LISTEN_FDNAMES has {} names", names.len()));
    }
    Ok(names.into_iter().map(String::from).zip(FIRST_INHERITED..).collect())
}

#[derive(Debug, PartialEq)]
struct Arguments {
    control: String,
    index: u32,
    incarnation: u64,
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut control, mut index, mut incarnation) = (None, None, 0);
        while let Some(name) = given.next() {
            let value = given.next().ok_or_else(|| format!("{name} needs a value"))?;
            let bad = || format!("{name} {value}: not a number");
            match name.as_str() {
                "--control" => control = Some(value),
                "--index" => index = Some(value.parse().map_err(|_| bad())?),
                "--incarnation" => incarnation = value.parse().map_err(|_| bad())?,
                _ => return Err(format!("{name} is not an option of this program")),
            }
        }
        Ok(Self {
            control: control.ok_or("--control is missing: this program is started by `phalanx serve`")?,
            index: index.ok_or("--index is missing: this program is started by `phalanx serve`")?,
            incarnation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn the_supervisors_arguments_are_understood() {
        let arguments = parse("--control unix:/run/c --index 3 --incarnation 2").unwrap();
        assert_eq!(arguments, Arguments { control: "unix:/run/c".into(), index: 3, incarnation: 2 });
        assert_eq!(parse("--index 0 --control tcp:h:1").unwrap().incarnation, 0);
    }

    #[test]
    fn what_is_missing_or_odd_is_named() {
        assert!(parse("--index 1").unwrap_err().contains("--control"));
        assert!(parse("--control x").unwrap_err().contains("--index"));
        assert!(parse("--control").unwrap_err().contains("--control needs a value"));
        assert!(parse("--control x --index -1").unwrap_err().contains("--index -1"));
        assert!(parse("--port 80").unwrap_err().contains("--port"));
    }

    #[test]
    fn a_name_may_stand_for_several_sockets() {
        let sockets = named("http:engine:engine", "3").unwrap();
        assert_eq!(sockets, [("http".into(), 3), ("engine".into(), 4), ("engine".into(), 5)]);
        assert!(named("http:engine", "3").is_err());
    }
}
