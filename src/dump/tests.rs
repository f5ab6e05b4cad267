//! What was written comes back, and nothing else is taken for it.

use proptest::prelude::*;

use super::*;

fn header() -> Header {
    Header { version: VERSION, cluster: "zmesh".to_owned(), revision: 7 }
}

fn items() -> Vec<Item> {
    let options = TopicOptions { age: Some(Duration::from_secs(60)), ..TopicOptions::default() };
    vec![
        Item::Key { key: Bytes::from_static(b"a"), value: Bytes::from_static(b"text \"\n") },
        Item::Key { key: Bytes::from_static(b"\xff\0"), value: Bytes::new() },
        Item::Topic { name: "orders".to_owned(), options },
        Item::Record { key: None, value: Bytes::from_static(b"\x80") },
        Item::Record { key: Some(Bytes::from_static(b"k")), value: Bytes::from_static(b"v") },
    ]
}

fn written(items: &[Item]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    items.iter().for_each(|item| writer.write(item).unwrap());
    writer.leave_out();
    writer.end().unwrap().0
}

fn read(bytes: &[u8]) -> Result<Vec<Item>, DumpError> {
    let mut reader = Reader::new(bytes)?;
    let mut items = Vec::new();
    while let Some(item) = reader.next()? {
        items.push(item);
    }
    Ok(items)
}

/// The text is a promise to other programs, as it is to a dump of years ago.
#[test]
fn dump_has_these_lines() {
    let text = String::from_utf8(written(&items())).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..6],
        [
            r#"{"zmesh":{"version":1,"cluster":"zmesh","revision":7}}"#,
            r#"{"key":{"key":"a","value":"text \"\n"}}"#,
            r#"{"key":{"key":{"base64":"/wA="},"value":""}}"#,
            r#"{"topic":{"name":"orders","age_seconds":60,"record_bytes_max":1048576}}"#,
            r#"{"record":{"value":{"base64":"gA=="}}}"#,
            r#"{"record":{"key":"k","value":"v"}}"#,
        ]
    );
    let before = text.rfind(",\"crc32c\"").unwrap();
    let sum = crc32c::crc32c(&text.as_bytes()[..before]);
    let end = format!(
        r#"{{"end":{{"counts":{{"keys":2,"leased":1,"topics":1,"records":2}},"crc32c":"{sum:08x}"}}}}"#
    );
    assert_eq!(lines[6..], [end]);
}

/// A dump that was cut anywhere, or has a changed byte anywhere, is not taken for one.
#[test]
fn every_cut_and_every_changed_byte_is_noticed() {
    let bytes = written(&items());
    assert_eq!(read(&bytes).unwrap(), items());
    for cut in 0..bytes.len() {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(read(&changed).is_err(), "changed at {at}");
    }
    assert!(read(&[&bytes[..], b"\n"].concat()).is_err(), "something follows");
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let without: Vec<u8> = [&lines[..2], &lines[3..]].concat().concat();
    assert!(matches!(read(&without), Err(DumpError::Damaged { .. })), "a line is missing");
}

/// A newer dump may have what this version would lose; one that is longer than a line may be is not
/// read into memory.
#[test]
fn newer_and_endless_dumps_are_refused() {
    let newer = br#"{"zmesh":{"version":2,"cluster":"zmesh","revision":7}}"#;
    let newer = [&newer[..], b"\n"].concat();
    assert!(matches!(read(&newer), Err(DumpError::Newer { version: 2 })));
    let mut endless = io::BufReader::new(io::repeat(b'x'));
    let error = Reader::new(&mut endless).unwrap_err();
    assert!(matches!(error, DumpError::Line { line: 1, .. }), "{error}");
}

proptest! {
    /// Any bytes survive the way out and in.
    #[test]
    fn any_items_come_back(
        pairs in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8),
    ) {
        let item = |(key, value): (Vec<u8>, Vec<u8>)| Item::Key { key: key.into(), value: value.into() };
        let items: Vec<_> = pairs.into_iter().map(item).collect();
        prop_assert_eq!(read(&written(&items)).unwrap(), items);
    }

    /// Whatever a file is, reading it ends with a value.
    #[test]
    fn any_text_is_read_without_panic(bytes in any::<Vec<u8>>()) {
        let _ = read(&bytes);
        let _ = read(&[&written(&items())[..60], &bytes[..]].concat());
    }
}
