//! What a certificate says of itself, read from its DER (RFC 5280, 4.1). Nothing is verified here: whether
//! it may be believed is for `verify`, and for who presents it.

use std::net::IpAddr;

use jiff::{civil::DateTime, tz::TimeZone};
use minato_model::time::Moment;
use rustls_pki_types::CertificateDer;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReaderSeq, Tag, models::ObjectIdentifier};

use crate::der;

/// Subject alternative name.
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
/// The longest certificate that is read.
const CERTIFICATE_MAX: usize = 64 << 10;

/// It isn't a certificate as RFC 5280 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no X.509 certificate")]
pub struct Unreadable;

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub not_before: Moment,
    /// Until the end of this second.
    pub not_after: Moment,
}

/// For whom a certificate is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names, those with `*.` in front included.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// URIs, such as SPIFFE ids.
    pub uris: Vec<String>,
}

/// When it is valid.
///
/// # Errors
/// It is no certificate.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<Validity, Unreadable> {
    fields(certificate).map(|fields| fields.validity)
}

/// For whom it is; none, if it has no such extension.
///
/// # Errors
/// It is no certificate.
pub fn names(certificate: &CertificateDer<'_>) -> Result<Names, Unreadable> {
    let Some(extension) = fields(certificate)?.alternative_names else { return Ok(Names::default()) };
    let mut names = Names::default();
    der::read(&extension, |reader| {
        reader.read_sequence_of(|reader| {
            let general = reader.read_tagged_der()?;
            let text = || String::from_utf8(general.value().to_vec()).map_err(|_| wrong());
            match general.tag() {
                tag if tag == Tag::context(2) => names.dns.push(text()?),
                tag if tag == Tag::context(6) => names.uris.push(text()?),
                tag if tag == Tag::context(7) => names.addresses.push(address(general.value())?),
                _ => {}
            }
            Ok(())
        })
    })
    .map_err(|_| Unreadable)?;
    Ok(names)
}

/// Whether two certificates follow each other: the names of the one's issuer and the other's subject.
///
/// # Errors
/// One of them is no certificate.
pub fn is_issued_by(
    certificate: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
) -> Result<bool, Unreadable> {
    Ok(fields(certificate)?.issuer == fields(issuer)?.subject)
}

/// The length of its RSA key in bits; `None`: its key is of another kind.
///
/// # Errors
/// It is no certificate.
pub fn rsa_bits(certificate: &CertificateDer<'_>) -> Result<Option<usize>, Unreadable> {
    let key = fields(certificate)?.key;
    let rsa = der::read(&key, |reader| {
        reader.read_sequence(|reader| {
            let rsa = reader.next().read_sequence(|reader| {
                let kind = reader.next().read_oid()?;
                while reader.read_optional(|reader| reader.read_der())?.is_some() {}
                Ok(kind.components().as_slice() == [1, 2, 840, 113_549, 1, 1, 1])
            })?;
            let (bits, _) = reader.next().read_bitvec_bytes()?;
            Ok(rsa.then_some(bits))
        })
    });
    let Some(rsa) = rsa.map_err(|_| Unreadable)? else { return Ok(None) };
    let modulus = der::read(&rsa, |reader| {
        reader.read_sequence(|reader| {
            let modulus = reader.next().read_tagged_der()?;
            reader.next().read_der()?;
            Ok(modulus.value().to_vec())
        })
    });
    let modulus = modulus.map_err(|_| Unreadable)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros).map_or(0, |byte| byte.leading_zeros());
    Ok(Some((modulus.len() - zeros) * 8 - usize::try_from(first).unwrap_or(0)))
}

/// The parts of a certificate that are asked for here.
struct Fields {
    issuer: Vec<u8>,
    subject: Vec<u8>,
    validity: Validity,
    /// `SubjectPublicKeyInfo`.
    key: Vec<u8>,
    alternative_names: Option<Vec<u8>>,
}

fn fields(certificate: &CertificateDer<'_>) -> Result<Fields, Unreadable> {
    if certificate.len() > CERTIFICATE_MAX {
        return Err(Unreadable);
    }
    let parsed = der::read(certificate, |reader| {
        reader.read_sequence(|reader| {
            let fields = reader.next().read_sequence(to_be_signed)?;
            // The signature's algorithm and the signature.
            reader.next().read_der()?;
            reader.next().read_der()?;
            Ok(fields)
        })
    });
    parsed.map_err(|_| Unreadable)
}

fn to_be_signed(reader: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Fields> {
    reader.read_optional(|reader| reader.read_tagged(Tag::context(0), |reader| reader.read_der()))?;
    // The serial number and the signature's algorithm.
    reader.next().read_der()?;
    reader.next().read_der()?;
    let issuer = reader.next().read_der()?;
    let validity = reader.next().read_sequence(|reader| {
        let (from, to) = (reader.next().read_tagged_der()?, reader.next().read_tagged_der()?);
        let moment =
            |time: &yasna::models::TaggedDerValue| moment(time.tag(), time.value()).ok_or_else(wrong);
        Ok(Validity { not_before: moment(&from)?, not_after: moment(&to)? })
    })?;
    let subject = reader.next().read_der()?;
    let key = reader.next().read_der()?;
    let mut alternative_names = None;
    while let Some((tag, value)) = reader.read_optional(|reader| {
        let tag = reader.lookahead_tag()?;
        Ok((tag, reader.read_der()?))
    })? {
        if tag == Tag::context(3) {
            alternative_names = extensions(&value)?;
        }
    }
    Ok(Fields { issuer, subject, validity, key, alternative_names })
}

/// The subject's alternative names among the extensions.
fn extensions(tagged: &[u8]) -> ASN1Result<Option<Vec<u8>>> {
    let wanted = ObjectIdentifier::from_slice(SUBJECT_ALT_NAME);
    let mut found = None;
    der::read(tagged, |reader| {
        reader.read_tagged(Tag::context(3), |reader| {
            reader.read_sequence_of(|reader| {
                reader.read_sequence(|reader| {
                    let kind = reader.next().read_oid()?;
                    reader.read_default(false, |reader| reader.read_bool())?;
                    let value = reader.next().read_bytes()?;
                    if kind == wanted {
                        found = Some(value);
                    }
                    Ok(())
                })
            })
        })
    })?;
    Ok(found)
}

/// `UTCTime` (two digits of the year: 50 and later are of the last century) or `GeneralizedTime`, both in
/// UTC to the second.
fn moment(tag: Tag, text: &[u8]) -> Option<Moment> {
    let text = str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match tag {
        yasna::tags::TAG_UTCTIME if text.len() == 12 => {
            let (year, rest) = text.split_at(2);
            let year = year.parse::<i16>().ok()?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        yasna::tags::TAG_GENERALIZEDTIME if text.len() == 14 => {
            let (year, rest) = text.split_at(4);
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let time = DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0).ok()?;
    let stamp = TimeZone::UTC.to_timestamp(time).ok()?;
    Some(Moment(stamp.as_millisecond()))
}

fn address(bytes: &[u8]) -> ASN1Result<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(four.into());
    }
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).map_err(|_| wrong())
}

fn wrong() -> ASN1Error {
    ASN1Error::new(ASN1ErrorKind::Invalid)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, SanType};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn what_a_certificate_says_is_read() {
        let certificate = made(|params| {
            params.not_before = rcgen::date_time_ymd(2026, 2, 28);
            params.not_after = rcgen::date_time_ymd(2061, 1, 1);
            params.subject_alt_names = vec![
                SanType::DnsName("*.shop.example".try_into().unwrap()),
                SanType::IpAddress("10.1.2.3".parse().unwrap()),
                SanType::IpAddress("::1".parse().unwrap()),
                SanType::URI("spiffe://a/b".try_into().unwrap()),
            ];
        });
        let validity = validity(&certificate).unwrap();
        assert_eq!(validity.not_before.to_string(), "2026-02-28T00:00:00.000Z");
        assert_eq!(validity.not_after.to_string(), "2061-01-01T00:00:00.000Z");
        let names = names(&certificate).unwrap();
        assert_eq!(names.dns, ["*.shop.example"]);
        assert_eq!(names.addresses, ["10.1.2.3".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert_eq!(names.uris, ["spiffe://a/b"]);
        assert_eq!(rsa_bits(&certificate).unwrap(), None);
        assert!(is_issued_by(&certificate, &certificate).unwrap());
    }

    #[test]
    fn the_length_of_an_rsa_key_is_read() {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        assert_eq!(rsa_bits(certificate.der()).unwrap(), Some(2048));
        assert_eq!(names(certificate.der()).unwrap(), Names::default());
    }

    #[test]
    fn what_is_none_is_refused_at_every_length_and_with_every_byte_changed() {
        let whole =
            made(|params| params.subject_alt_names = vec![SanType::DnsName("a.b".try_into().unwrap())]);
        for end in 0..whole.len() {
            let cut = CertificateDer::from(whole[..end].to_vec());
            assert_eq!(validity(&cut), Err(Unreadable), "{end}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0x55;
            // Whatever it says: it comes to an end, and breaks nothing.
            let changed = CertificateDer::from(bytes);
            drop((validity(&changed), names(&changed), rsa_bits(&changed)));
        }
    }
}
