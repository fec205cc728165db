//! Parses arbitrary bytes as a request. The parser must never panic. The outcome must not depend on how much has
//! arrived, because a connection parses what has arrived, and parses again when more arrives. So the target parses both
//! the whole and its beginning, up to a cut.
//!
//! The first byte of the input selects the position of the cut. The rest is what the client sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quinistry::http::request::{MAX_FIELDS, MAX_HEAD, MAX_REQUEST_LINE, parse};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    // The first byte is the position of the cut in 256ths of the length, so an input of up to 256 bytes can be cut
    // anywhere.
    let (start, _) = bytes.split_at(bytes.len() * usize::from(cut) / 256);
    let whole = parse(bytes);
    let early = parse(start);
    assert!(early == Ok(None) || early == whole, "{early:?} before {whole:?}");
    match whole {
        Ok(None) => assert!(bytes.len() < MAX_HEAD + 2, "a head without an end is refused"),
        Ok(Some((request, length))) => {
            assert!(length <= MAX_HEAD + 2 && request.target.len() <= MAX_REQUEST_LINE);
            assert!(request.fields.lines("accept").count() <= MAX_FIELDS);
            assert!(request.target.is_ascii() && request.path.is_ascii(), "a target is ASCII");
        }
        Err(_) => {}
    }
});
