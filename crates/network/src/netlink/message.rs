//! Netlink's wire form. Writing never fails half-way: what doesn't fit marks the whole, which is then
//! never sent. Reading takes any bytes.

use std::ops::Range;

/// The longest batch of requests: far above what a node's table of rules needs (about 10 KiB), below
/// a socket's send buffer.
const LIMIT: usize = 64 * 1024;

pub(super) const HEADER: usize = 16;
pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACKNOWLEDGE: u16 = 0x4;
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// Requests that are sent together, in order.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    requests: Vec<Request>,
    too_long: bool,
}

/// Where a request begins, and what to call it when it is refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    start: usize,
    pub(super) acknowledged: bool,
    pub(super) what: &'static str,
}

/// A batch that didn't fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Messages {
    /// Adds a request that the kernel acknowledges or answers.
    pub(crate) fn request(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.add(what, kind, flags | REQUEST | ACKNOWLEDGE, fixed, fill);
    }

    /// Adds a request of which the kernel says nothing unless it fails.
    pub(crate) fn unacknowledged(&mut self, what: &'static str, kind: u16, fixed: &[u8]) {
        self.add(what, kind, REQUEST, fixed, |_| ());
    }

    fn add(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        let acknowledged = flags & ACKNOWLEDGE != 0;
        self.requests.push(Request { start, acknowledged, what });
        let mut attributes = Attributes { bytes: &mut self.bytes, too_long: &mut self.too_long };
        attributes.append(&[0; 4]);
        attributes.append(&kind.to_ne_bytes());
        attributes.append(&flags.to_ne_bytes());
        attributes.append(&[0; 8]);
        attributes.append(fixed);
        fill(&mut attributes);
        let Ok(length) = u32::try_from(self.bytes.len() - start) else {
            self.too_long = true;
            return;
        };
        set(&mut self.bytes, start..start + 4, &length.to_ne_bytes());
    }

    /// The bytes to send, numbered from `first` on, and the requests in their order.
    pub(super) fn numbered(mut self, first: u32) -> Result<(Vec<u8>, Vec<Request>), TooLong> {
        if self.too_long {
            return Err(TooLong);
        }
        for (number, request) in (0u32..).zip(&self.requests) {
            let at = request.start + 8;
            set(&mut self.bytes, at..at + 4, &first.wrapping_add(number).to_ne_bytes());
        }
        Ok((self.bytes, self.requests))
    }
}

/// The attributes of one request, or of one nest of attributes in it.
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
    too_long: &'a mut bool,
}

impl Attributes<'_> {
    /// An attribute of raw bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.wrapped(kind, |inner| inner.append(value));
    }

    /// An attribute of 32 bits in the machine's order.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// An attribute of 32 bits in the network's order.
    pub(crate) fn network_number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A text with its closing zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.wrapped(kind, |inner| {
            inner.append(value.as_bytes());
            inner.append(&[0]);
        });
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.wrapped(kind | NESTED, fill);
    }

    /// Bytes as they are, without a header: only for a structure that opens a nest.
    pub(crate) fn append(&mut self, value: &[u8]) {
        if *self.too_long || self.bytes.len() + value.len() + 8 > LIMIT {
            *self.too_long = true;
        } else {
            self.bytes.extend_from_slice(value);
        }
    }

    fn wrapped(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.append(&[0; 4]);
        fill(&mut Attributes { bytes: self.bytes, too_long: self.too_long });
        let Ok(length) = u16::try_from(self.bytes.len().saturating_sub(start)) else {
            *self.too_long = true;
            return;
        };
        set(self.bytes, start..start + 2, &length.to_ne_bytes());
        set(self.bytes, start + 2..start + 4, &kind.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Overwrites a range that was appended before; where appending had stopped there is nothing to set.
fn set(bytes: &mut [u8], range: Range<usize>, value: &[u8]) {
    if let Some(slot) = bytes.get_mut(range) {
        slot.copy_from_slice(value);
    }
}

/// One message as received: its kind, flags, number and what follows the header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) number: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of one datagram. Ends at the first that isn't whole.
pub(super) fn received(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes, 0)?).ok()?;
        let whole = bytes.get(..length)?;
        let message = Received {
            kind: half(whole, 4)?,
            flags: half(whole, 6)?,
            number: number(whole, 8)?,
            payload: whole.get(HEADER..)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// All attributes in these bytes, as kind and value. Ends at the first that isn't whole.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)? & KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A text without its closing zero.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// 32 bits in the machine's order at this place.
pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A value of 32 bits in the network's order.
pub(crate) fn network_number(value: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nests_and_padding_read_back() {
        let mut messages = Messages::default();
        messages.request("x", 16, 0x400, &[1, 2, 3, 4], |a| {
            a.text(3, "eth0");
            a.nest(18, |a| {
                a.number(1, 7);
                a.bytes(2, &[9]);
            });
        });
        let (bytes, requests) = messages.numbered(41).unwrap();
        assert_eq!(requests.len(), 1);
        let all: Vec<_> = received(&bytes).collect();
        let [message] = all.as_slice() else { panic!("one message: {all:?}") };
        assert_eq!((message.kind, message.flags, message.number), (16, 0x405, 41));
        let rest = &message.payload[4..];
        assert_eq!(attribute(rest, 3).and_then(text), Some("eth0"));
        let nest = attribute(rest, 18).unwrap();
        assert_eq!(attribute(nest, 1).and_then(|v| number(v, 0)), Some(7));
        assert_eq!(attribute(nest, 2), Some(&[9u8][..]));
        assert_eq!(attribute(nest, 5), None);
    }

    #[test]
    fn what_does_not_fit_is_never_sent() {
        for size in [LIMIT, usize::from(u16::MAX) - 3, usize::from(u16::MAX) + 1] {
            let mut messages = Messages::default();
            messages.request("x", 16, 0, &[], |a| a.bytes(1, &vec![0; size]));
            assert_eq!(messages.numbered(1).err(), Some(TooLong), "{size}");
        }
        let mut messages = Messages::default();
        for _ in 0..5_000 {
            messages.request("x", 16, 0, &[0; 16], |a| a.nest(1, |a| a.text(2, "abc")));
        }
        assert_eq!(messages.numbered(1).err(), Some(TooLong));
    }

    #[test]
    fn reading_takes_any_bytes() {
        // Every prefix and every single changed byte of a real message, and lengths that lie.
        let mut messages = Messages::default();
        messages.request("x", 16, 0, &[0; 4], |a| a.nest(1, |a| a.text(2, "abc")));
        let (bytes, _) = messages.numbered(1).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(received(&bytes[..end]).count(), 0, "{end}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 3, 15, 127, 255] {
                let mut changed = bytes.clone();
                changed[at] = value;
                for message in received(&changed) {
                    for (_, value) in attributes(message.payload) {
                        let _count = attributes(value).count();
                    }
                }
            }
        }
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(received(&[0; 64]).count(), 0);
    }
}
