//! etcd: gRPC over HTTP/2, as its own clients speak it; slots share connections, one stream a call.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;

use super::{Operation, VALUE};

#[derive(Clone)]
pub(crate) struct Slot(SendRequest<Bytes>);

impl Slot {
    pub(crate) async fn connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = h2::client::handshake(stream).await.ok()?;
        tokio::spawn(connection);
        Some(Self(sender))
    }

    pub(crate) async fn run(&self, operation: Operation, key: u64) {
        let key = format!("key-{key:012}");
        let mut message = BytesMut::new();
        put_field(1, key.as_bytes(), &mut message);
        let path = if operation == Operation::Get { "Range" } else { "Put" };
        if operation != Operation::Get {
            put_field(2, &VALUE, &mut message);
        }
        let reply = self.call(&format!("/etcdserverpb.KV/{path}"), &message).await.unwrap();
        let header = Fields(&reply).find(|(number, _)| *number == 1);
        let Some((_, Value::Bytes(header))) = header else { panic!("a reply without a header") };
        assert!(Fields(header).any(|(number, _)| number == 3), "a header without a revision");
    }

    /// Whether this member leads; none if there is nobody who does.
    pub(crate) async fn leads(&self) -> Option<bool> {
        let status = self.call("/etcdserverpb.Maintenance/Status", &[]).await?;
        let (mut own, mut leader) = (None, None);
        for (number, value) in Fields(&status) {
            match (number, value) {
                (1, Value::Bytes(header)) => {
                    own = Fields(header).find(|(number, _)| *number == 2).map(|(_, id)| id);
                }
                (4, id) => leader = Some(id),
                _ => {}
            }
        }
        leader.map(|leader| Some(leader) == own)
    }

    /// One call with one message each way; none if it failed.
    async fn call(&self, path: &str, message: &[u8]) -> Option<Bytes> {
        let request = Request::post(format!("http://etcd{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut sender = self.0.clone().ready().await.ok()?;
        let (response, mut body) = sender.send_request(request, false).ok()?;
        let mut framed = BytesMut::with_capacity(5 + message.len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).unwrap());
        framed.put_slice(message);
        body.send_data(framed.freeze(), true).ok()?;
        let mut body = response.await.ok()?.into_body();
        let mut reply = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part.ok()?;
            body.flow_control().release_capacity(part.len()).ok()?;
            reply.extend_from_slice(&part);
        }
        let trailers = body.trailers().await.ok()??;
        let is_ok = trailers.get("grpc-status").is_some_and(|status| status == "0");
        (is_ok && reply.len() >= 5).then(|| reply.split_off(5).freeze())
    }
}

fn put_field(number: u8, bytes: &[u8], message: &mut BytesMut) {
    message.put_u8(number << 3 | 2);
    // Keys and values here are so short that the bytes of a length are at most two.
    match u8::try_from(bytes.len()).expect("less than 256 bytes") {
        length @ 0x80.. => message.put_slice(&[length, 1]),
        length => message.put_u8(length),
    }
    message.put_slice(bytes);
}

/// The fields of a message of Protocol Buffers, as far as they are numbers and bytes.
struct Fields<'a>(&'a [u8]);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Fields<'_> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            other => panic!("fields of wire type {other} are not among those of etcd"),
        };
        Some((tag >> 3, value))
    }
}
