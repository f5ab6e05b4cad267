//! NATS: its text protocol, and JetStream through requests.

use tokio::io::{AsyncBufRead, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::pipe::{Heard, Pipe, Protocol, block, line};
use super::{Operation, VALUE};

/// Subject of the responder.
const ECHO: &str = "peers.echo";
/// The stream, which has one subject of the same name.
pub(crate) const STREAM: &str = "peers";
/// The stream behind a key-value bucket, and where its keys are.
pub(crate) const BUCKET: &str = "KV_peers";
const KEYS: &str = "$KV.peers";
const HELLO: &str = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

/// What a server of NATS says to a client with one subscription.
pub(crate) struct Client;

impl Protocol for Client {
    async fn hear(reader: &mut (impl AsyncBufRead + Send + Unpin)) -> Option<Heard> {
        let line = line(reader).await?;
        let words: Vec<&str> = line.split(' ').collect();
        Some(match words[0] {
            "PING" => Heard::Say(b"PONG\r\n"),
            // Subject, subscription, perhaps where to reply to, bytes; with headers also theirs.
            "MSG" | "HMSG" => Heard::Reply(block(reader, words.last()?.parse().ok()?).await?),
            "-ERR" => panic!("{line}"),
            _ => Heard::Nothing,
        })
    }
}

#[derive(Clone)]
pub(crate) struct Slot {
    pipe: Pipe,
    inbox: String,
}

impl Slot {
    pub(crate) async fn connect(port: u16) -> Option<Self> {
        let inbox = format!("_INBOX.{}", uuid::Uuid::new_v4().simple());
        let pipe = Pipe::connect::<Client>(port).await?;
        pipe.say(format!("{HELLO}SUB {inbox} 1\r\n").into_bytes());
        Some(Self { pipe, inbox })
    }

    /// The operation on the stream.
    pub(crate) async fn run(&self, operation: Operation, _: u64) {
        let is_request = operation == Operation::Request;
        let reply = self.request(if is_request { ECHO } else { STREAM }, &VALUE).await.unwrap();
        assert!(is_request || has(&reply, "\"seq\""), "{}", String::from_utf8_lossy(&reply));
    }

    /// The operation on the bucket. A GET asks the leader of its stream.
    pub(crate) async fn run_keys(&self, operation: Operation, key: u64) {
        let key = format!("{KEYS}.key-{key:012}");
        let reply = match operation {
            Operation::Get => {
                let subject = format!("$JS.API.STREAM.MSG.GET.{BUCKET}");
                self.request(&subject, format!("{{\"last_by_subj\":\"{key}\"}}").as_bytes()).await
            }
            Operation::Set | Operation::Append | Operation::Request => {
                self.request(&key, &VALUE).await
            }
        };
        let reply = reply.unwrap();
        // A key that nobody has set is none.
        let is_answer = has(&reply, "\"seq\"") || has(&reply, "no message found");
        assert!(is_answer, "{}", String::from_utf8_lossy(&reply));
    }

    /// Makes the stream and the bucket, each of three replicas in files.
    pub(crate) async fn create_streams(&self) -> bool {
        let stream = format!("\"subjects\":[\"{STREAM}\"],\"max_bytes\":1073741824");
        let bucket = format!("\"subjects\":[\"{KEYS}.>\"],\"max_msgs_per_subject\":1");
        for (name, rest) in [(STREAM, stream), (BUCKET, bucket)] {
            let config = format!(
                "{{\"name\":\"{name}\",\"storage\":\"file\",\"num_replicas\":3,\
                 \"discard\":\"old\",{rest}}}"
            );
            let subject = format!("$JS.API.STREAM.CREATE.{name}");
            let made = self.request(&subject, config.as_bytes()).await;
            if made.is_none_or(|reply| has(&reply, "\"error\"")) {
                return false;
            }
        }
        true
    }

    /// The name of the member that leads a stream, if one does.
    pub(crate) async fn leader(&self, stream: &str) -> Option<String> {
        let info = self.request(&format!("$JS.API.STREAM.INFO.{stream}"), b"").await?;
        let info: serde_json::Value = serde_json::from_slice(&info).ok()?;
        info["cluster"]["leader"].as_str().map(str::to_owned)
    }

    async fn request(&self, subject: &str, payload: &[u8]) -> Option<Vec<u8>> {
        self.pipe.ask(publish(&format!("{subject} {}", self.inbox), payload)).await.ok()
    }
}

fn publish(to: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("PUB {to} {}\r\n", payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend(b"\r\n");
    bytes
}

fn has(reply: &[u8], text: &str) -> bool {
    reply.windows(text.len()).any(|it| it == text.as_bytes())
}

/// Answers requests, on a thread of its own, which ends with the process.
pub(crate) fn respond(port: u16) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (reader, mut writer) = stream.into_split();
            writer.write_all(format!("{HELLO}SUB {ECHO} 2\r\n").as_bytes()).await.unwrap();
            let (mut reader, mut out) = (BufReader::new(reader), Vec::new());
            while let Some(said) = line(&mut reader).await {
                let words: Vec<&str> = said.split(' ').collect();
                match words[0] {
                    "PING" => out.extend(b"PONG\r\n"),
                    "MSG" => {
                        let payload = block(&mut reader, words[4].parse().unwrap()).await.unwrap();
                        out.extend(publish(words[3], &payload));
                    }
                    _ => {}
                }
                // All that has come is answered at once.
                if !reader.buffer().contains(&b'\n') {
                    writer.write_all(&out).await.unwrap();
                    out.clear();
                }
            }
        });
    });
}
