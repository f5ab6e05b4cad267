//! NATS: its text protocol, one connection a slot, and JetStream through requests.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::tcp::connect;
use super::{Operation, VALUE};

/// Subject of the responder, and of the stream.
const ECHO: &str = "peers.echo";
const STREAM: &str = "peers";

pub(crate) struct Slot {
    stream: BufStream<TcpStream>,
    inbox: String,
}

impl Slot {
    pub(crate) async fn connect(port: u16) -> Option<Self> {
        let inbox = format!("_INBOX.{}", uuid::Uuid::new_v4().simple());
        let mut slot = Self { stream: connect(port).await?, inbox };
        slot.line().await?;
        let hello =
            format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {} 1\r\n", slot.inbox);
        slot.stream.write_all(hello.as_bytes()).await.ok()?;
        slot.stream.flush().await.ok()?;
        Some(slot)
    }

    pub(crate) async fn run(&mut self, operation: Operation, _: u64) {
        let subject = if operation == Operation::Request { ECHO } else { STREAM };
        let reply = self.request(subject, &VALUE).await.unwrap();
        let is_ack = operation == Operation::Request || reply.windows(5).any(|it| it == b"\"seq\"");
        assert!(is_ack, "{}", String::from_utf8_lossy(&reply));
    }

    /// A stream of three replicas in files.
    pub(crate) async fn create_stream(&mut self) -> bool {
        let config = format!(
            "{{\"name\":\"{STREAM}\",\"subjects\":[\"{STREAM}\"],\"storage\":\"file\",\
             \"num_replicas\":3,\"discard\":\"old\",\"max_bytes\":1073741824}}"
        );
        let subject = format!("$JS.API.STREAM.CREATE.{STREAM}");
        let made = self.request(&subject, config.as_bytes()).await;
        made.is_some_and(|reply| !reply.windows(7).any(|it| it == b"\"error\""))
    }

    /// The name of the member that leads the stream, if one does.
    pub(crate) async fn stream_leader(&mut self) -> Option<String> {
        let info = self.request(&format!("$JS.API.STREAM.INFO.{STREAM}"), b"").await?;
        let info: serde_json::Value = serde_json::from_slice(&info).ok()?;
        info["cluster"]["leader"].as_str().map(str::to_owned)
    }

    /// Answers requests, on a thread of its own, which ends with the process.
    pub(crate) fn respond(port: u16) {
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut slot = Self::connect(port).await.unwrap();
                slot.stream.write_all(format!("SUB {ECHO} 2\r\n").as_bytes()).await.unwrap();
                slot.stream.flush().await.unwrap();
                while let Some((Some(reply_to), payload)) = slot.message().await {
                    slot.publish(&reply_to, None, &payload).await;
                }
            });
        });
    }

    async fn request(&mut self, subject: &str, payload: &[u8]) -> Option<Vec<u8>> {
        let inbox = self.inbox.clone();
        self.publish(subject, Some(&inbox), payload).await;
        self.message().await.map(|(_, payload)| payload)
    }

    async fn publish(&mut self, subject: &str, reply_to: Option<&str>, payload: &[u8]) {
        let reply_to = reply_to.map_or_else(String::new, |inbox| format!("{inbox} "));
        let head = format!("PUB {subject} {reply_to}{}\r\n", payload.len());
        self.stream.write_all(head.as_bytes()).await.unwrap();
        self.stream.write_all(payload).await.unwrap();
        self.stream.write_all(b"\r\n").await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next message: where to reply to, and what it says. Pings are answered meanwhile.
    async fn message(&mut self) -> Option<(Option<String>, Vec<u8>)> {
        loop {
            let line = self.line().await?;
            let words: Vec<&str> = line.split(' ').collect();
            match words[0] {
                "PING" => {
                    self.stream.write_all(b"PONG\r\n").await.ok()?;
                    self.stream.flush().await.ok()?;
                }
                // Subject, subscription, perhaps where to reply to, bytes; with headers also theirs.
                "MSG" | "HMSG" => {
                    let bytes: usize = words.last()?.parse().ok()?;
                    let mut payload = vec![0; bytes + 2];
                    self.stream.read_exact(&mut payload).await.ok()?;
                    payload.truncate(bytes);
                    let reply_to = (words.len() == 5).then(|| words[3].to_owned());
                    return Some((reply_to, payload));
                }
                "-ERR" => panic!("{line}"),
                _ => {}
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line).await {
            Ok(1..) => Some(line.trim_end().to_owned()),
            Ok(0) | Err(_) => None,
        }
    }
}
