//! Listening sockets of the operating system, for transports that own them and those that ask it
//! first whether an address can be had.
//!
//! Shell. Invariant: a file that is no socket, or that somebody else listens on, is never removed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What a host stands for when it is bound, or why it cannot be.
pub(super) fn ip(host: &str) -> Result<IpAddr, String> {
    match host {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        // With IPv6 on, this takes IPv4 connections as well.
        "*" if TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() => {
            Ok(Ipv6Addr::UNSPECIFIED.into())
        }
        "*" => Ok(Ipv4Addr::UNSPECIFIED.into()),
        host => host
            .parse()
            .map_err(|_| "only a numeric address, localhost or * can be bound".to_owned()),
    }
}

/// Listens on a port, or says why not.
pub(super) fn tcp(ip: IpAddr, port: u16) -> Result<TcpListener, String> {
    TcpListener::bind((ip, port)).map_err(|error| error.to_string())
}

/// Listens on a path, in place of a socket that a killed process left behind, or says why not.
pub(super) fn unix(path: &Path) -> Result<UnixListener, String> {
    make_way(path)?;
    UnixListener::bind(path).map_err(|error| error.to_string())
}

fn make_way(path: &Path) -> Result<(), String> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            Err("there is a file that is no socket".to_owned())
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
            Ok(_) => Err("address in use: somebody listens there".to_owned()),
        },
        Err(_) => Ok(()),
    }
}
