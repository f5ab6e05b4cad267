//! Redis: its protocol RESP, one connection a slot.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::tcp::connect;
use super::{Operation, VALUE};

pub(crate) struct Slot(BufStream<TcpStream>);

impl Slot {
    pub(crate) async fn connect(port: u16) -> Option<Self> {
        connect(port).await.map(Self)
    }

    pub(crate) async fn run(&mut self, operation: Operation, key: u64) {
        let key = format!("key-{key:012}");
        match operation {
            Operation::Get => {
                self.send(&[b"GET", key.as_bytes()]).await;
                // A key that nobody has set is none.
                drop(self.reply().await);
            }
            Operation::Set | Operation::Append | Operation::Request => {
                self.send(&[b"SET", key.as_bytes(), &VALUE]).await;
                self.send(&[b"WAIT", b"1", b"0"]).await;
                assert_eq!(self.reply().await.as_deref(), Some("+OK"));
                let replicas = self.reply().await.unwrap();
                assert!(replicas == ":1" || replicas == ":2", "{replicas}");
            }
        }
    }

    pub(crate) async fn send(&mut self, words: &[&[u8]]) {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).bytes());
            bytes.extend_from_slice(word);
            bytes.extend(b"\r\n");
        }
        self.0.write_all(&bytes).await.unwrap();
    }

    /// The line of a reply, its bulk read with it; none for a nil.
    pub(crate) async fn reply(&mut self) -> Option<String> {
        self.0.flush().await.unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        let line = line.trim_end().to_owned();
        assert!(!line.starts_with('-'), "{line}");
        let Some(length) = line.strip_prefix('$') else { return Some(line) };
        let length = usize::try_from(length.parse::<i64>().unwrap()).ok()?;
        let mut bulk = vec![0; length + 2];
        self.0.read_exact(&mut bulk).await.unwrap();
        Some(String::from_utf8_lossy(&bulk).trim_end().to_owned())
    }
}
