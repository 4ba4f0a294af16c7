//! DER from outside. The parser adds lengths as they are written, and breaks off where a sum is beyond what a
//! number holds: so lengths are looked at before it is asked.

use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, parse_der};

/// Elements within each other at most: a certificate has nine.
const DEPTH: u32 = 24;

/// Reads one element and nothing after it.
pub(crate) fn read<T>(der: &[u8], read: impl FnOnce(BERReader<'_, '_>) -> ASN1Result<T>) -> ASN1Result<T> {
    match after(der, DEPTH) {
        Some([]) => parse_der(der, read),
        Some(_) | None => Err(ASN1Error::new(ASN1ErrorKind::Invalid)),
    }
}

/// What comes after the first element, if that and all in it are as long as they say (X.690, 8.1).
fn after(der: &[u8], depth: u32) -> Option<&[u8]> {
    let (tag, mut rest) = der.split_first()?;
    if tag & 0x1f == 0x1f {
        // Numbers of tags are small: four bytes of seven bits are more than any has.
        let end = rest.iter().take(4).position(|byte| byte & 0x80 == 0)?;
        rest = rest.get(end + 1..)?;
    }
    let (first, mut rest) = rest.split_first()?;
    let mut length = usize::from(*first);
    if *first >= 0x80 {
        // Neither without an end, nor longer than anything that is read.
        let digits = usize::from(first & 0x7f);
        let written = rest.get(..digits).filter(|_| (1..=4).contains(&digits))?;
        length = written.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        rest = rest.get(digits..)?;
    }
    let (mut content, rest) = rest.split_at_checked(length)?;
    if tag & 0x20 != 0 {
        let depth = depth.checked_sub(1)?;
        while !content.is_empty() {
            content = after(content, depth)?;
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_within_what_there_is() {
        let whole = |der: &[u8]| read(der, |reader| reader.read_der()).is_ok();
        assert!(whole(&[0x30, 3, 2, 1, 5]) && whole(&[&[4, 0x81, 200], &[9; 200][..]].concat()));
        for der in [
            &[0x30, 3, 2, 2, 5][..],
            &[0x30, 0x80, 0, 0],
            &[0x30, 4, 2, 1, 5],
            &[0x30, 3, 2, 1, 5, 0],
            &[0x30, 10, 0x30, 0x88, 255, 255, 255, 255, 255, 255, 255, 255],
            &[0x3f, 0xff, 0xff, 0xff, 0xff, 1, 0],
            &[],
        ] {
            assert!(!whole(der), "{der:?}");
        }
        let mut nested = Vec::new();
        for _ in 0..40 {
            nested.splice(0..0, [0x30, u8::try_from(nested.len()).unwrap()]);
        }
        assert!(!whole(&nested));
    }
}
