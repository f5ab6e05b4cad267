//! etcd: its JSON gateway over HTTP/1.1, one connection a slot.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
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
        let key = STANDARD.encode(format!("key-{key:012}"));
        match operation {
            Operation::Get => {
                let found = self.post("/v3/kv/range", &json!({ "key": key })).await.unwrap();
                assert!(found["header"]["revision"].is_string(), "{found}");
            }
            Operation::Set | Operation::Append | Operation::Request => {
                let put = json!({ "key": key, "value": STANDARD.encode(VALUE) });
                let put = self.post("/v3/kv/put", &put).await.unwrap();
                assert!(put["header"]["revision"].is_string(), "{put}");
            }
        }
    }

    /// Whether this member leads; none if there is nobody who does.
    pub(crate) async fn leads(&mut self) -> Option<bool> {
        let status = self.post("/v3/maintenance/status", &json!({})).await?;
        let leader = status["leader"].as_str().filter(|leader| *leader != "0")?;
        Some(Some(leader) == status["header"]["member_id"].as_str())
    }

    async fn post(&mut self, path: &str, body: &Value) -> Option<Value> {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: e\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.write_all(request.as_bytes()).await.ok()?;
        self.0.flush().await.ok()?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.ok().filter(|bytes| *bytes > 0)?;
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(bytes) = line.strip_prefix("content-length:") {
                length = bytes.trim().parse().ok()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.ok()?;
        serde_json::from_slice(&body).ok()
    }
}
