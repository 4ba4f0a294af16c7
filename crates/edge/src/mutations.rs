//! The parsers of what comes from outside, with bytes that nobody would send: mutations of what they know, from a
//! seed that is printed. None panics, none takes more than there was, and the same bytes mean the same
//! whether they come at once or one by one.

use crate::{balance::mix, checks};

const CASES: u64 = 20_000;
const SEED: u64 = 0x6d69_6e61_746f;

/// Each mutation of each of these.
fn each(corpus: &[&[u8]], mut check: impl FnMut(&[u8])) {
    println!("seed {SEED:#x}, {CASES} cases");
    for case in 0..CASES {
        let mut random = mix(SEED ^ case);
        let mut draw = |below: usize| {
            random = mix(random);
            usize::try_from(random % u64::try_from(below.max(1)).unwrap()).unwrap()
        };
        let mut bytes = corpus[draw(corpus.len())].to_vec();
        for _ in 0..=draw(4) {
            let at = draw(bytes.len());
            match draw(5) {
                0 if !bytes.is_empty() => bytes[at] = u8::try_from(draw(256)).unwrap(),
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 => bytes.insert(at, *b"\r\n\0 :;%/.\xff0x".get(draw(12)).unwrap()),
                3 => bytes.truncate(at),
                _ => {
                    let other = corpus[draw(corpus.len())];
                    let from = draw(other.len());
                    bytes.splice(at..at, other[from..].iter().copied());
                }
            }
        }
        check(&bytes);
    }
}

const HEADS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close, x\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.0 304 Not Modified\r\nSet-Cookie: a=b\r\nset-cookie: c\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
];

#[test]
fn heads_of_answers() {
    each(HEADS, checks::answer_head);
}

#[test]
fn bodies_of_answers() {
    let corpus: &[&[u8]] = &[
        b"5\r\nhello\r\n0\r\n\r\n",
        b"3;x=y\r\nabc\r\n00a\r\n0123456789\r\n0\r\nA: b\r\nC: d\r\n\r\nnext",
        b"ffffffffffffffff\r\nabc",
        b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ];
    each(corpus, checks::chunks);
}

#[test]
fn frames_of_websockets() {
    let corpus: &[&[u8]] = &[
        &[0x81, 5, b'h', b'e', b'l', b'l', b'o'],
        &[0x82, 126, 0, 130, 1, 2, 3],
        &[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0x88, 0x82, 1, 2, 3, 4, 5, 6],
    ];
    each(corpus, checks::frames);
}

#[test]
fn paths_cookies_and_traces() {
    let corpus: &[&[u8]] = &[
        b"/api/v1/%61bc;x=y/../..%2f%2E%2e//z",
        b"a=b; session=123; session=\"4\"; =; c",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"1.2.3.4, [::1]:80, unknown, 5.6.7.8",
    ];
    each(corpus, |bytes| {
        checks::paths(bytes);
        checks::fields(bytes);
    });
}

#[test]
fn targets_and_hosts() {
    let corpus: &[&[u8]] = &[
        b"/a/b?c=d\nshop.localhost:8080",
        b"http://shop.localhost?q\nshop.localhost",
        b"*\n[::1]:80\nx",
        b"http://user@Shop.Localhost:80/..;/\nSHOP.localhost",
    ];
    each(corpus, checks::requests);
}

#[test]
fn questions_for_names() {
    let question: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04shop\x08internal\x00\x00\x01\x00\x01";
    let pointer: &[u8] = b"\x12\x34\x01\x00\x00\x02\x00\x00\x00\x00\x00\x01\x03web\xc0\x0c\x00\x1c\x00\x01\xc0\x10\x00\x01\x00\x01\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00";
    each(&[question, pointer], checks::questions);
}
