//! The sockets of the operating system: TCP and Unix, listening and connected.
//!
//! Shell. Invariant: the file of a Unix socket goes with the socket.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::unconstrained;

use crate::transport::{Address, listening};

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
            Address::Tcp { host, port, .. } => {
                Self::tcp(TcpStream::connect((host.as_str(), *port)).await?)
            }
        }
    }

    fn tcp(stream: TcpStream) -> io::Result<Self> {
        // Whole batches are written at once, so there is nothing to wait for.
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Where the other end is, for people.
    pub(super) fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => {
                stream.peer_addr().map_or_else(|_| "?".to_owned(), |at| at.to_string())
            }
            Self::Unix(_) => "unix".to_owned(),
        }
    }

    /// Where the other end is, if it is on a network.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Reads what there is, once; 0 bytes mean the end. Who drives the transport yields by itself:
    /// the runtime's budget would only make a socket look empty that is not.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(unconstrained(stream.read_buf(input))).poll(cx),
            Self::Unix(stream) => pin!(unconstrained(stream.read_buf(input))).poll(cx),
        }
    }

    /// Writes as much as there is room for, once.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(unconstrained(stream.write_vectored(slices))).poll(cx),
            Self::Unix(stream) => pin!(unconstrained(stream.write_vectored(slices))).poll(cx),
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
                let listener = listening::unix(path)?;
                let listen = || {
                    listener.set_nonblocking(true)?;
                    UnixListener::from_std(listener)
                };
                let listener = listen().map_err(|error| error.to_string())?;
                Ok((Self::Unix(listener, path.to_owned()), address.clone()))
            }
            Address::Tcp { host, port, .. } => {
                let listener = listening::tcp(listening::ip(host)?, *port)?;
                let listen = || {
                    listener.set_nonblocking(true)?;
                    let port = listener.local_addr()?.port();
                    Ok((TcpListener::from_std(listener)?, port))
                };
                let (listener, port) = listen().map_err(|error: io::Error| error.to_string())?;
                Ok((Self::Tcp(listener), Address::tcp(host.clone(), port)))
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
