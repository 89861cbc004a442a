//! What crosses the wire: frames, messages, greetings.

use lsync_protocol::frame::{Decoder, Frame, HEADER, Header, RAW_MAX, Squeezer, encode};
use lsync_protocol::handshake::{self, Answer, GREETING, Greeting, Hello, MAGIC};

/// What is encoded is decoded to the same, compressed or not.
fn comes_back(frame: &Frame) {
    let raw = frame.raw();
    let mut plain = Vec::new();
    encode(&frame.message, raw.len(), &mut plain);
    plain.extend_from_slice(raw);
    let mut squeezed = Vec::new();
    let smaller = Squeezer::default().encode(1, &frame.message, raw, &mut squeezed);
    assert!(!smaller || squeezed.len() < plain.len());
    assert_eq!(smaller, !squeezed.is_empty(), "refused, and written all the same");
    for bytes in [plain, squeezed].iter().filter(|bytes| !bytes.is_empty()) {
        let (head, body) = bytes.split_first_chunk::<HEADER>().unwrap();
        let header = Header::decode(head).expect("what we encode has a header");
        assert_eq!((header.length, header.kind), (body.len(), frame.message.kind()));
        let back = Decoder::default().decode(header, body.to_vec());
        let back = back.expect("what we encode decodes");
        assert_eq!(back.message, frame.message);
        assert_eq!(back.raw(), raw);
        assert_eq!(back.wire_size(), bytes.len());
    }
}

/// A stream of frames, as a peer writes it.
pub fn frame(mut bytes: &[u8]) {
    let mut decoder = Decoder::default();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() {
        let Ok(header) = Header::decode(head) else { return };
        let Some((body, rest)) = rest.split_at_checked(header.length) else { return };
        let Ok(frame) = decoder.decode(header, body.to_vec()) else { return };
        assert!(frame.raw().len() <= RAW_MAX, "more comes out than may stand in a frame");
        assert_eq!(frame.wire_size(), HEADER + header.length);
        comes_back(&frame);
        bytes = rest;
    }
}

/// The body of one message, its kind first: what decodes is what it is encoded from.
pub fn message(bytes: &[u8]) {
    let Some((&kind, body)) = bytes.split_first() else { return };
    let header = Header { length: body.len(), kind, stream: 0, squeezed: false };
    let Ok(frame) = Frame::decode(header, body.to_vec()) else { return };
    assert_eq!(frame.message.kind(), kind);
    let _ = frame.message.bulk_cost(frame.raw().len());
    comes_back(&frame);
}

/// Greetings of both ends.
pub fn handshake(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<GREETING>() else { return };
    if let Ok(greeting) = Greeting::decode(*head) {
        assert!(greeting.length <= handshake::BODY_MAX);
    }
    let read = |whole: Vec<u8>| {
        let (head, body) = whole[MAGIC.len()..].split_first_chunk::<GREETING>().unwrap();
        let greeting = Greeting::decode(*head).expect("what we say is a greeting");
        assert_eq!(greeting.length, body.len());
        body.to_vec()
    };
    if let Ok(hello) = handshake::read_body::<Hello>(body) {
        assert_eq!(handshake::read_body(&read(handshake::greet(&hello))), Ok(hello.clone()));
        if let Some(trash) = hello.trash.filter(|trash| trash.valid()) {
            assert!(trash.dir.parent().is_some_and(|dir| dir.is_root()));
            assert!(!trash.dir.is_temporary());
        }
    }
    if let Ok(answer) = handshake::read_body::<Answer>(body) {
        assert_eq!(handshake::read_body(&read(handshake::greet(&answer))), Ok(answer));
    }
}
