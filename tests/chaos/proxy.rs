//! Lines between processes that can be disturbed, each in each direction by itself.
//!
//! A process dials its peer by the line, and the line dials the peer. What has come waits in the line
//! until its time, so a long way costs no throughput, and a cut line loses nothing that was taken: it
//! comes late, or with the connection not at all.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zmesh::Address;

/// Pieces that wait in one direction of a connection.
const PIECES_MAX: usize = 64;
const PIECE_BYTES: usize = 16 * 1024;

/// What a direction does to what passes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Nothing passes.
    pub(crate) cut: bool,
    /// Everything takes so long, and up to so much longer.
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// No more passes in a second; none for no limit.
    pub(crate) bytes_per_second: Option<u32>,
}

/// One line, as long as it is not dropped.
pub(crate) struct Line {
    pub(crate) address: Address,
    /// From who dials to who is dialed, and back.
    pub(crate) forth: watch::Sender<Weather>,
    pub(crate) back: watch::Sender<Weather>,
    resets: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Line {
    /// A line to `target`, which need not listen yet.
    pub(crate) async fn to(target: &Address) -> Self {
        let (host, port) = host_and_port(target);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::tcp("127.0.0.1", listener.local_addr().unwrap().port());
        let (forth, back) = (watch::Sender::default(), watch::Sender::default());
        let resets = watch::Sender::new(0);
        let ends =
            Ends { forth: forth.subscribe(), back: back.subscribe(), resets: resets.subscribe() };
        let ends = Arc::new(ends);
        let task = tokio::spawn(async move {
            while let Ok((dialer, _)) = listener.accept().await {
                let (host, ends) = (host.clone(), Arc::clone(&ends));
                tokio::spawn(async move {
                    if let Ok(target) = TcpStream::connect((host.as_str(), port)).await {
                        ends.join(dialer, target).await;
                    }
                });
            }
        });
        Self { address, forth, back, resets, task }
    }

    /// Breaks all connections, as a router does that forgets them.
    pub(crate) fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }

    /// Ends everything that is wrong with it.
    pub(crate) fn heal(&self) {
        self.forth.send_replace(Weather::default());
        self.back.send_replace(Weather::default());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Ends {
    forth: watch::Receiver<Weather>,
    back: watch::Receiver<Weather>,
    resets: watch::Receiver<u64>,
}

impl Ends {
    /// Carries both directions until one of them ends, or the connection is reset.
    async fn join(&self, dialer: TcpStream, target: TcpStream) {
        for stream in [&dialer, &target] {
            stream.set_nodelay(true).unwrap();
            // What is closed is closed at once, without waiting for what was not read.
            stream.set_zero_linger().unwrap();
        }
        let ((from, to), (back, forth)) = (dialer.into_split(), target.into_split());
        let mut resets = self.resets.clone();
        resets.mark_unchanged();
        tokio::select! {
            () = carry(from, forth, self.forth.clone()) => {}
            () = carry(back, to, self.back.clone()) => {}
            _ = resets.changed() => {}
        }
    }
}

/// Carries one direction.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, weather: watch::Receiver<Weather>) {
    let (taken, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let now = weather.clone();
    let take = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let Ok(bytes @ 1..) = from.read(&mut piece).await else { return };
            piece.truncate(bytes);
            let Weather { delay, jitter, .. } = *now.borrow();
            let due = Instant::now() + delay + jitter.mul_f64(fastrand::f64());
            if taken.send((due, piece)).await.is_err() {
                return;
            }
        }
    };
    let give = async move {
        let mut weather = weather;
        while let Some((due, piece)) = pieces.recv().await {
            tokio::time::sleep_until(due).await;
            let Ok(now) = weather.wait_for(|now| !now.cut).await.map(|now| *now) else { return };
            if let Some(rate) = now.bytes_per_second {
                let bytes = u32::try_from(piece.len()).unwrap();
                tokio::time::sleep(Duration::from_secs(1) * bytes / rate).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = take => {}
        () = give => {}
    }
}

fn host_and_port(address: &Address) -> (String, u16) {
    let text = address.clone().with_key(None).to_string();
    let (host, port) = text.strip_prefix("tcp://").unwrap().rsplit_once(':').unwrap();
    (host.to_owned(), port.parse().unwrap())
}
