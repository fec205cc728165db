//! Any bytes to the request parser: it never panics, and where packets end changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quinistry::http::request::{FieldStorage, MAX_FIELDS, MAX_HEAD, MAX_REQUEST_LINE, parse};

fuzz_target!(|bytes: &[u8]| {
    let (mut lines, mut other_lines) = (FieldStorage::default(), FieldStorage::default());
    let whole = parse(bytes, 0, &mut lines);
    // All that a connection would do with the bytes in some 64 pieces.
    let mut seen = 0;
    let step = (bytes.len() / 64).max(1);
    let mut end = 0;
    while end < bytes.len() && matches!(parse(&bytes[..end], seen, &mut FieldStorage::default()), Ok(None)) {
        seen = end;
        end = (end + step).min(bytes.len());
    }
    let in_pieces = parse(&bytes[..end], seen, &mut other_lines);
    match (whole, in_pieces) {
        (Ok(None), Ok(None)) => assert!(bytes.len() < MAX_HEAD + 2, "a head without an end is refused"),
        (Err(one), Err(other)) => assert_eq!(one, other),
        (Ok(Some((one, length))), Ok(Some((other, other_length)))) => {
            assert_eq!(length, other_length);
            assert_eq!(format!("{one:?}"), format!("{other:?}"));
            assert!(length <= MAX_HEAD + 2 && one.target.len() <= MAX_REQUEST_LINE);
            assert!(one.field_lines("accept").count() <= MAX_FIELDS);
            assert!(one.target.is_ascii() && one.path.is_ascii(), "a target is ASCII");
        }
        (one, other) => panic!("whole: {one:?}\nin pieces: {other:?}"),
    }
});
