//! Bytes of a line: numbers, addresses, and what came from a client, which may be anything.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// How a byte that can't be written as it is gets written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quoting {
    /// As in a string of JSON.
    Json,
    /// As `\x0a`, as Apache does within quotes.
    Hexadecimal,
}

/// Writes what a client may have chosen. Everything but printable ASCII is escaped, so that a line stays
/// one line and does nothing to a terminal; what is beyond ASCII is percent-encoded, as in a URI.
pub(crate) fn quote(out: &mut Vec<u8>, text: &[u8], quoting: Quoting) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| !is_plain(*byte)) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { break };
        escape(out, *byte, quoting);
        rest = after;
    }
    out.extend_from_slice(rest);
}

/// Which bytes are written as they are.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

fn is_plain(byte: u8) -> bool {
    PLAIN.get(usize::from(byte)).is_some_and(|plain| *plain)
}

fn escape(out: &mut Vec<u8>, byte: u8, quoting: Quoting) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        0x80.. => out.push(b'%'),
        _ if quoting == Quoting::Json => out.extend_from_slice(b"\\u00"),
        _ => out.extend_from_slice(b"\\x"),
    }
    if byte != b'"' && byte != b'\\' {
        let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or(b'0');
        let pair = [digit(byte >> 4), digit(byte & 15)];
        // RFC 3986 asks for upper case after a per cent sign.
        let pair = if byte >= 0x80 { pair.map(|digit| digit.to_ascii_uppercase()) } else { pair };
        out.extend_from_slice(&pair);
    }
}

/// Writes a number.
pub(crate) fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        }
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

/// Writes microseconds as milliseconds with three decimals.
pub(crate) fn milliseconds(out: &mut Vec<u8>, micros: u64) {
    decimal(out, micros / 1000);
    out.push(b'.');
    let rest = micros % 1000;
    for unit in [100, 10, 1] {
        out.push(b'0' + u8::try_from(rest / unit % 10).unwrap_or(0));
    }
}

/// Writes an address.
pub(crate) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => four(out, address),
        // Writing to memory can't fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

fn four(out: &mut Vec<u8>, address: Ipv4Addr) {
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        decimal(out, octet.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_a_client_chose_stays_within_its_quotes() {
        let check = |text: &[u8], quoting| written(|out| quote(out, text, quoting));
        let hostile = b"/a\"b\\c\n\r\x00\x1b[2J\x7f\xc3\xa9\xff d";
        assert_eq!(check(hostile, Quoting::Json), r#"/a\"b\\c\u000a\u000d\u0000\u001b[2J\u007f%C3%A9%FF d"#);
        assert_eq!(check(hostile, Quoting::Hexadecimal), r#"/a\"b\\c\x0a\x0d\x00\x1b[2J\x7f%C3%A9%FF d"#);
        let all: Vec<u8> = (0..=255).collect();
        let text = format!("\"{}\"", check(&all, Quoting::Json));
        serde_json::from_str::<String>(&text).unwrap();
        assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }

    #[test]
    fn numbers_and_addresses_are_written_as_usual() {
        for number in [0, 7, 10, 12_345, u64::MAX] {
            assert_eq!(written(|out| decimal(out, number)), number.to_string());
        }
        let times = [0, 1, 1_050, 999_999].map(|micros| written(|out| milliseconds(out, micros)));
        assert_eq!(times, ["0.000", "0.001", "1.050", "999.999"]);
        for text in ["127.0.0.1", "255.10.0.200", "2001:db8::1"] {
            assert_eq!(written(|out| address(out, text.parse().unwrap())), text);
        }
    }
}
