//! Redis: its protocol RESP.

use tokio::io::AsyncBufRead;

use super::pipe::{Heard, Pipe, Protocol, block, line};
use super::{Operation, VALUE};

/// RESP, as far as its replies are lines and bulks.
pub(crate) struct Resp;

impl Protocol for Resp {
    async fn hear(reader: &mut (impl AsyncBufRead + Send + Unpin)) -> Option<Heard> {
        let line = line(reader).await?;
        let reply = match line.strip_prefix('$').map(str::parse::<i64>) {
            Some(length) => match usize::try_from(length.ok()?) {
                Ok(bytes) => block(reader, bytes).await?,
                // Nothing is there.
                Err(_) => Vec::new(),
            },
            None => line.into_bytes(),
        };
        Some(Heard::Reply(reply))
    }
}

#[derive(Clone)]
pub(crate) struct Slot(Pipe);

impl Slot {
    pub(crate) async fn connect(port: u16) -> Option<Self> {
        Pipe::connect::<Resp>(port).await.map(Self)
    }

    pub(crate) async fn run(&self, operation: Operation, key: u64) {
        let key = format!("key-{key:012}");
        match operation {
            Operation::Get => {
                let value = self.call(&[b"GET", key.as_bytes()]).await.unwrap();
                // A key that nobody has set is none.
                assert!(value.is_empty() || value == VALUE, "{}", String::from_utf8_lossy(&value));
            }
            Operation::Set | Operation::Append | Operation::Request => {
                let set = self.0.ask(command(&[b"SET", key.as_bytes(), &VALUE]));
                let wait = self.0.ask(command(&[b"WAIT", b"1", b"0"]));
                assert_eq!(set.await.unwrap(), b"+OK");
                let replicas = wait.await.unwrap();
                assert!(replicas == b":1" || replicas == b":2", "{replicas:?}");
            }
        }
    }

    /// The reply to a command; none without a connection.
    pub(crate) async fn call(&self, words: &[&[u8]]) -> Option<Vec<u8>> {
        self.0.ask(command(words)).await.ok()
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend(b"\r\n");
    }
    bytes
}
