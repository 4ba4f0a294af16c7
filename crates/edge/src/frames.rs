//! Where a WebSocket's frames end (RFC 6455, 5.2), told from the bytes as they pass: only between two
//! frames may a close frame be said in another's name.

/// "Going away": the code of a close frame (RFC 6455, 7.4.1).
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// The frames of one direction.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// What has passed of a frame's head; a mask isn't looked at.
    head: [u8; 10],
    passed: usize,
    /// What is to come of its payload.
    left: u64,
    closed: bool,
}

impl Frames {
    /// Whether the next byte begins a frame.
    pub(crate) fn is_between(&self) -> bool {
        self.passed == 0 && self.left == 0
    }

    /// Whether a close frame has passed: nothing may follow it.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed && self.is_between()
    }

    /// These bytes pass.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = bytes.get(self.pass_one(bytes)..).unwrap_or_default();
        }
    }

    /// The bytes pass up to the end of the frame that is under way; returns how many that are.
    pub(crate) fn pass_one(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.left > 0 {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= u64::try_from(length).unwrap_or(0);
                at += length;
            } else {
                if let Some(place) = self.head.get_mut(self.passed) {
                    *place = *byte;
                }
                self.passed += 1;
                at += 1;
                if self.passed >= 2 && self.passed == self.head_length() {
                    self.left = self.payload();
                    self.closed |= self.head[0] & 0x0f == 0x8;
                    self.passed = 0;
                }
            }
            if self.is_between() {
                break;
            }
        }
        at
    }

    fn head_length(&self) -> usize {
        let more = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + more + mask
    }

    fn payload(&self) -> u64 {
        let [_, short, long @ ..] = self.head;
        match short & 0x7f {
            126 => u64::from(u16::from_be_bytes([long[0], long[1]])),
            127 => u64::from_be_bytes(long),
            length => u64::from(length),
        }
    }
}

/// A close frame as a server sends it.
pub(crate) fn close_to_client() -> [u8; 4] {
    [0x88, 2, GOING_AWAY[0], GOING_AWAY[1]]
}

/// A close frame as a client sends it, masked.
pub(crate) fn close_to_instance(mask: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = mask;
    [0x88, 0x82, a, b, c, d, GOING_AWAY[0] ^ a, GOING_AWAY[1] ^ b]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each of the places in the bytes lies between two frames, however they arrive.
    fn check(bytes: &[u8], ends: &[usize]) {
        for piece in [1, 2, 3, 7, bytes.len()] {
            let (mut frames, mut at) = (Frames::default(), 0);
            for part in bytes.chunks(piece) {
                frames.pass(part);
                at += part.len();
                assert_eq!(frames.is_between(), ends.contains(&at), "at {at}, {piece} at once");
            }
        }
        let (mut frames, mut at, mut found) = (Frames::default(), 0, Vec::new());
        while at < bytes.len() {
            at += frames.pass_one(&bytes[at..]);
            found.push(at);
        }
        assert_eq!(found, ends);
    }

    #[test]
    fn frames_of_every_length_end_where_they_end() {
        let frame = |head: &[u8], payload: usize| [head, &vec![0xff; payload]].concat();
        check(&frame(&[0x82, 5], 5), &[7]);
        check(&[frame(&[0x01, 0], 0), frame(&[0x80, 3], 3)].concat(), &[2, 7]);
        check(&frame(&[0x82, 126, 1, 0], 256), &[260]);
        check(&frame(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 1], 65_537), &[65_547]);
        check(&frame(&[0x82, 0x85, 1, 2, 3, 4], 5), &[11]);
        check(&frame(&[0x82, 0xfe, 1, 0, 9, 9, 9, 9], 256), &[264]);
        check(&[&close_to_client()[..], &close_to_instance([1, 2, 3, 4])].concat(), &[4, 12]);
    }

    #[test]
    fn a_close_frame_is_seen_at_its_end() {
        let mut frames = Frames::default();
        frames.pass(&[0x81, 1, b'x', 0x88, 2, 3]);
        assert!(!frames.is_closed());
        frames.pass(&[0xe9]);
        assert!(frames.is_closed());
    }
}
