//! Numbers and byte strings of the store's commands and answers, written and read.
//!
//! Numbers are little endian. Keys have two bytes of length before them, values four. Pure; reading
//! never panics, copies nothing, and takes no memory for what is announced and not there.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The bytes end too early, or go on after their end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::kv) struct Cut;

/// Bytes being written.
#[derive(Debug, Default)]
pub(in crate::kv) struct Writer(BytesMut);

impl Writer {
    pub(in crate::kv) fn u8(&mut self, number: u8) {
        self.0.put_u8(number);
    }

    pub(in crate::kv) fn u32(&mut self, number: u32) {
        self.0.put_u32_le(number);
    }

    pub(in crate::kv) fn u64(&mut self, number: u64) {
        self.0.put_u64_le(number);
    }

    pub(in crate::kv) fn i64(&mut self, number: i64) {
        self.0.put_i64_le(number);
    }

    /// At most 65,535 bytes.
    pub(in crate::kv) fn key(&mut self, key: &[u8]) {
        let bytes = u16::try_from(key.len()).expect("keys and bounds are checked");
        self.0.put_u16_le(bytes);
        self.0.put_slice(key);
    }

    /// At most 4 GiB.
    pub(in crate::kv) fn value(&mut self, value: &[u8]) {
        let bytes = u32::try_from(value.len()).expect("values are checked");
        self.0.put_u32_le(bytes);
        self.0.put_slice(value);
    }

    /// Whatever is left to the reader.
    pub(in crate::kv) fn rest(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    pub(in crate::kv) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Bytes being read. What it gives out are slices of them.
#[derive(Clone, Debug)]
pub(in crate::kv) struct Reader(Bytes);

impl Reader {
    pub(in crate::kv) fn new(bytes: &Bytes) -> Self {
        Self(bytes.clone())
    }

    pub(in crate::kv) fn u8(&mut self) -> Result<u8, Cut> {
        self.0.try_get_u8().map_err(|_| Cut)
    }

    pub(in crate::kv) fn u32(&mut self) -> Result<u32, Cut> {
        self.0.try_get_u32_le().map_err(|_| Cut)
    }

    pub(in crate::kv) fn u64(&mut self) -> Result<u64, Cut> {
        self.0.try_get_u64_le().map_err(|_| Cut)
    }

    pub(in crate::kv) fn i64(&mut self) -> Result<i64, Cut> {
        self.0.try_get_i64_le().map_err(|_| Cut)
    }

    pub(in crate::kv) fn key(&mut self) -> Result<Bytes, Cut> {
        let bytes = self.0.try_get_u16_le().map_err(|_| Cut)?;
        self.take(usize::from(bytes))
    }

    pub(in crate::kv) fn value(&mut self) -> Result<Bytes, Cut> {
        let bytes = self.u32()?;
        self.take(usize::try_from(bytes).map_err(|_| Cut)?)
    }

    pub(in crate::kv) fn take(&mut self, bytes: usize) -> Result<Bytes, Cut> {
        if bytes > self.0.remaining() { Err(Cut) } else { Ok(self.0.split_to(bytes)) }
    }

    pub(in crate::kv) fn rest(self) -> Bytes {
        self.0
    }

    /// Nothing may be left.
    pub(in crate::kv) fn end(&self) -> Result<(), Cut> {
        if self.0.has_remaining() { Err(Cut) } else { Ok(()) }
    }
}
