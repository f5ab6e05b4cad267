//! A connection that several slots share: requests are written one behind the other, many in one
//! write, and replies come in the order of the requests.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

/// Requests in one write.
const BATCH: usize = 256;

/// What the bytes of a server are, and what is to be done about them.
pub(crate) enum Heard {
    Reply(Vec<u8>),
    Say(&'static [u8]),
    Nothing,
}

/// Reads the next thing that a server says; none at the end of the connection.
pub(crate) trait Protocol: Send + 'static {
    fn hear(
        reader: &mut (impl AsyncBufRead + Send + Unpin),
    ) -> impl Future<Output = Option<Heard>> + Send;
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Pipe(mpsc::UnboundedSender<Asked>);

/// The bytes of a request, and who waits for the reply, if there will be one.
type Asked = (Vec<u8>, Option<oneshot::Sender<Vec<u8>>>);
type Waiting = Arc<Mutex<VecDeque<oneshot::Sender<Vec<u8>>>>>;

impl Pipe {
    /// Connects to a server of this machine, if one listens.
    pub(crate) async fn connect<P: Protocol>(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (reader, writer) = stream.into_split();
        let (sender, asked) = mpsc::unbounded_channel();
        let waiting = Waiting::default();
        tokio::spawn(write(writer, asked, Arc::clone(&waiting)));
        tokio::spawn(read::<P>(BufReader::new(reader), sender.downgrade(), waiting));
        Some(Self(sender))
    }

    /// Hands over a request; its reply comes later, or never if the connection ends.
    pub(crate) fn ask(&self, request: Vec<u8>) -> oneshot::Receiver<Vec<u8>> {
        let (sender, reply) = oneshot::channel();
        // Without a connection the reply fails.
        drop(self.0.send((request, Some(sender))));
        reply
    }

    /// Hands over what is not answered.
    pub(crate) fn say(&self, words: Vec<u8>) {
        drop(self.0.send((words, None)));
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut asked: mpsc::UnboundedReceiver<Asked>,
    waiting: Waiting,
) {
    let (mut batch, mut bytes) = (Vec::new(), Vec::new());
    while asked.recv_many(&mut batch, BATCH).await > 0 {
        bytes.clear();
        for (request, sender) in batch.drain(..) {
            bytes.extend_from_slice(&request);
            waiting.lock().extend(sender);
        }
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read<P: Protocol>(
    mut reader: BufReader<OwnedReadHalf>,
    words: mpsc::WeakUnboundedSender<Asked>,
    waiting: Waiting,
) {
    while let Some(heard) = P::hear(&mut reader).await {
        match heard {
            Heard::Reply(reply) => {
                let sender = waiting.lock().pop_front().expect("a reply is to a request");
                // Who asked may have given up.
                drop(sender.send(reply));
            }
            Heard::Say(bytes) => {
                let Some(sender) = words.upgrade() else { return };
                drop(sender.send((bytes.to_vec(), None)));
            }
            Heard::Nothing => {}
        }
    }
    // Whoever waits learns that nothing will come.
    waiting.lock().clear();
}

/// A line without its end; none at the end of the connection.
pub(crate) async fn line(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok().filter(|bytes| *bytes > 0)?;
    Some(line.trim_end().to_owned())
}

/// So many bytes and the end of the line behind them.
pub(crate) async fn block(
    reader: &mut (impl AsyncBufRead + Unpin),
    bytes: usize,
) -> Option<Vec<u8>> {
    let mut block = vec![0; bytes + 2];
    reader.read_exact(&mut block).await.ok()?;
    block.truncate(bytes);
    Some(block)
}
