//! The sockets of the operating system: TCP and Unix, listening and connected.
//!
//! Shell. Invariant: the file of a Unix socket goes with the socket, and a file that somebody
//! else uses is never removed.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::transport::Address;

/// Why `inproc` is refused.
pub(super) const NO_INPROC: &str =
    "the native transport has tcp and ipc only; use libzmq for inproc";

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects to `address`; a host name is resolved, and each of its addresses is tried.
    pub(super) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Inproc { .. } => Err(io::Error::other(NO_INPROC)),
            Address::Ipc { path } => UnixStream::connect(path).await.map(Self::Unix),
            Address::Tcp { host, port } => {
                Self::tcp(TcpStream::connect((host.as_str(), *port)).await?)
            }
        }
    }

    fn tcp(stream: TcpStream) -> io::Result<Self> {
        // Whole batches are written at once, so there is nothing to wait for.
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Reads what there is, once; 0 bytes mean the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(stream.read_buf(input)).poll(cx),
            Self::Unix(stream) => pin!(stream.read_buf(input)).poll(cx),
        }
    }

    /// Writes as much as there is room for, once.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(stream.write_vectored(slices)).poll(cx),
            Self::Unix(stream) => pin!(stream.write_vectored(slices)).poll(cx),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Acceptor {
    /// Listens on `address`; returns it with the real port, or the reason why not.
    pub(super) fn bind(address: &Address) -> Result<(Self, Address), String> {
        match address {
            Address::Inproc { .. } => Err(NO_INPROC.to_owned()),
            Address::Ipc { path } => {
                let path = Path::new(path);
                make_way(path)?;
                let listener = UnixListener::bind(path).map_err(|error| error.to_string())?;
                Ok((Self::Unix(listener, path.to_owned()), address.clone()))
            }
            Address::Tcp { host, port } => {
                let (listener, port) = bind_tcp(host, *port)?;
                Ok((Self::Tcp(listener), Address::Tcp { host: host.clone(), port }))
            }
        }
    }

    /// The next connection.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = ready!(listener.poll_accept(cx))?;
                Poll::Ready(Stream::tcp(stream))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = ready!(listener.poll_accept(cx))?;
                Poll::Ready(Ok(Stream::Unix(stream)))
            }
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self
            && let Err(error) = std::fs::remove_file(&*path)
        {
            tracing::debug!(path = %path.display(), %error, "the file of the socket stays");
        }
    }
}

fn bind_tcp(host: &str, port: u16) -> Result<(TcpListener, u16), String> {
    let bind = |ip: IpAddr| std::net::TcpListener::bind(SocketAddr::new(ip, port));
    let bound = match host {
        "localhost" => bind([127, 0, 0, 1].into()),
        // With IPv6 on, this takes IPv4 connections as well.
        "*" if std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() => {
            bind(Ipv6Addr::UNSPECIFIED.into())
        }
        "*" => bind([0, 0, 0, 0].into()),
        host => {
            bind(host.parse().map_err(|_| "only a numeric address, localhost or * can be bound")?)
        }
    };
    let listen = || {
        let listener = bound?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok((TcpListener::from_std(listener)?, port))
    };
    listen().map_err(|error: io::Error| error.to_string())
}

/// Removes a socket that a killed process left behind, and nothing else.
fn make_way(path: &Path) -> Result<(), String> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            Err("there is a file that is no socket".to_owned())
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
            Ok(_) => Err("address in use: somebody listens there".to_owned()),
        },
        Err(_) => Ok(()),
    }
}
