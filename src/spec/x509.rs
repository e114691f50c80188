//! Defines what is read of an X.509 certificate (RFC 5280) beyond what verifying it needs: its names and its dates.
//!
//! A reader of DER that knows just these fields. It never trusts a length, and what it does not understand is an error.

use std::time::SystemTime;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

/// What a certificate says of its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its distinguished name as RFC 4514 writes it, in ASCII, without a quotation mark.
    pub subject: String,
    /// `dNSName`s of its subject alternative names, as they stand there.
    pub dns: Vec<String>,
    /// `uniformResourceIdentifier`s of its subject alternative names.
    pub uris: Vec<String>,
    /// Not valid before.
    pub not_before: SystemTime,
    /// Not valid after.
    pub not_after: SystemTime,
}

/// What is no certificate, or none that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no X.509 certificate")]
pub struct Malformed;

const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const TELETEX: u8 = 0x14;
const IA5: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BMP: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
/// `[0]` in a `TBSCertificate`: its version.
const VERSION: u8 = 0xa0;
/// `[3]` in a `TBSCertificate`: its extensions.
const EXTENSIONS: u8 = 0xa3;

/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

impl Facts {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// Whatever is no certificate.
    pub fn read(certificate: &[u8]) -> Result<Self, Malformed> {
        let mut whole = Der(certificate);
        let mut certificate = Der(whole.take(SEQUENCE)?);
        let mut tbs = Der(certificate.take(SEQUENCE)?);
        if tbs.tag() == Some(VERSION) {
            tbs.next()?;
        }
        // Serial number, algorithm, issuer.
        for _ in 0..3 {
            tbs.next()?;
        }
        let mut validity = Der(tbs.take(SEQUENCE)?);
        let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
        let subject = subject(Der(tbs.take(SEQUENCE)?))?;
        // The key; then unique ids that nobody has.
        tbs.take(SEQUENCE)?;
        let mut facts = Self { subject, dns: Vec::new(), uris: Vec::new(), not_before, not_after };
        while tbs.tag().is_some() {
            if let (EXTENSIONS, content) = tbs.next()? {
                facts.read_extensions(Der(Der(content).take(SEQUENCE)?))?;
            }
        }
        Ok(facts)
    }

    fn read_extensions(&mut self, mut extensions: Der<'_>) -> Result<(), Malformed> {
        while extensions.tag().is_some() {
            let mut extension = Der(extensions.take(SEQUENCE)?);
            let id = extension.take(OBJECT)?;
            if extension.tag() == Some(BOOLEAN) {
                extension.next()?;
            }
            let value = extension.take(OCTETS)?;
            if id != SUBJECT_ALT_NAME {
                continue;
            }
            let mut names = Der(Der(value).take(SEQUENCE)?);
            while names.tag().is_some() {
                let (tag, name) = names.next()?;
                let list = match tag {
                    DNS_NAME => &mut self.dns,
                    URI => &mut self.uris,
                    _ => continue,
                };
                list.push(std::str::from_utf8(name).map_err(|_| Malformed)?.to_owned());
            }
        }
        Ok(())
    }
}

/// What is left of an encoding.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next value's tag and content.
    fn next(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (&[tag, length], rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            // Up to 2^24 bytes; DER has no indefinite length.
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f)).ok_or(Malformed)?;
                (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
            }
            _ => return Err(Malformed),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok((tag, content))
    }

    fn take(&mut self, wanted: u8) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            (tag, content) if tag == wanted => Ok(content),
            _ => Err(Malformed),
        }
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5).
fn time((tag, text): (u8, &[u8])) -> Result<SystemTime, Malformed> {
    let text = std::str::from_utf8(text).ok().and_then(|text| text.strip_suffix('Z')).ok_or(Malformed)?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => text.split_at(2),
        (GENERALIZED_TIME, 14) => text.split_at(4),
        _ => return Err(Malformed),
    };
    let year: i16 = year.parse().map_err(|_| Malformed)?;
    let year = match tag {
        UTC_TIME if year < 50 => 2000 + year,
        UTC_TIME => 1900 + year,
        _ => year,
    };
    let pair = |at: usize| rest[at..at + 2].parse::<i8>().map_err(|_| Malformed);
    let date = Date::new(year, pair(0)?, pair(2)?).map_err(|_| Malformed)?;
    let time = Time::new(pair(4)?, pair(6)?, pair(8)?, 0).map_err(|_| Malformed)?;
    let zoned = TimeZone::UTC.to_zoned(date.to_datetime(time)).map_err(|_| Malformed)?;
    Ok(SystemTime::from(zoned.timestamp()))
}

/// A distinguished name, its last part first (RFC 4514, 2.1).
fn subject(mut name: Der<'_>) -> Result<String, Malformed> {
    let mut parts = Vec::new();
    while name.tag().is_some() {
        let (mut set, mut values) = (Der(name.take(SET)?), Vec::new());
        while set.tag().is_some() {
            let mut pair = Der(set.take(SEQUENCE)?);
            let kind = pair.take(OBJECT)?;
            values.push(format!("{}={}", attribute(kind), escaped(&text(pair.next()?))));
        }
        parts.push(values.join("+"));
    }
    parts.reverse();
    Ok(parts.join(","))
}

/// An attribute's short name (RFC 4514, 3), else its number.
fn attribute(id: &[u8]) -> String {
    let short = match id {
        [0x55, 0x04, 0x03] => "CN",
        [0x55, 0x04, 0x05] => "serialNumber",
        [0x55, 0x04, 0x06] => "C",
        [0x55, 0x04, 0x07] => "L",
        [0x55, 0x04, 0x08] => "ST",
        [0x55, 0x04, 0x09] => "STREET",
        [0x55, 0x04, 0x0a] => "O",
        [0x55, 0x04, 0x0b] => "OU",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01] => "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19] => "DC",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01] => "emailAddress",
        other => return numbered(other),
    };
    short.to_owned()
}

/// An object identifier in dots (X.690, 8.19).
fn numbered(id: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number = 0u64;
    for byte in id {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    if let Some(first) = numbers.first().copied() {
        let root = (first / 40).min(2);
        numbers.splice(..1, [root, first - root * 40]);
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

fn text((tag, value): (u8, &[u8])) -> String {
    match tag {
        UTF8 | PRINTABLE | IA5 => String::from_utf8_lossy(value).into_owned(),
        TELETEX => value.iter().map(|&byte| char::from(byte)).collect(),
        BMP => {
            let units = value.chunks_exact(2).map(|pair| u16::from(pair[0]) << 8 | u16::from(pair[1]));
            char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        // RFC 4514, 2.4.
        _ => format!("#{}", value.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

/// As RFC 4514, 2.4 has it, with everything but plain ASCII, and quotation marks, in hexadecimal digits: so that the
/// name can stand in quotation marks, and in a header.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for (at, byte) in value.bytes().enumerate() {
        let outer = at == 0 || at + 1 == value.len();
        match byte {
            b',' | b'+' | b'<' | b'>' | b';' | b'\\' => escaped.extend(['\\', char::from(byte)]),
            b' ' if outer => escaped.push_str("\\ "),
            b'"' | ..0x20 | 0x7f.. => escaped.push_str(&format!("\\{byte:02X}")),
            _ => escaped.push(char::from(byte)),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(of: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["example.com".to_owned(), "*.example.org".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        of(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_dates_are_read() {
        let der = certificate(|params| {
            params.distinguished_name.push(DnType::CountryName, "DE");
            params.distinguished_name.push(DnType::OrganizationName, "Smith, \"Sons\"; Ltd");
            params.distinguished_name.push(DnType::CommonName, "J\u{fc}rgen ");
            params.subject_alt_names.push(SanType::URI("spiffe://example/a".try_into().unwrap()));
            params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
            params.not_before = rcgen::date_time_ymd(2024, 2, 29);
            params.not_after = rcgen::date_time_ymd(2051, 1, 1);
        });
        let facts = Facts::read(&der).unwrap();
        assert_eq!(facts.subject, r"CN=J\C3\BCrgen\ ,O=Smith\, \22Sons\22\; Ltd,C=DE");
        assert_eq!(facts.dns, ["example.com", "*.example.org"]);
        assert_eq!(facts.uris, ["spiffe://example/a"]);
        assert_eq!(facts.not_before, UNIX_EPOCH + Duration::from_secs(1_709_164_800));
        // After 2049 dates are written in another form.
        assert_eq!(facts.not_after, UNIX_EPOCH + Duration::from_secs(2_556_144_000));
    }

    #[test]
    fn numbers_of_attributes_are_written_in_dots() {
        assert_eq!(numbered(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d]), "1.2.840.113549");
        assert_eq!(numbered(&[0x55, 0x04, 0x03]), "2.5.4.3");
        assert_eq!(numbered(&[]), "");
    }

    proptest! {
        #[test]
        fn what_is_cut_or_changed_never_panics(at in 0usize..600, byte: u8, cut: bool) {
            let mut der = certificate(|_| {});
            let at = at % der.len();
            der[at] = byte;
            if cut {
                der.truncate(at);
            }
            let _ = Facts::read(&der);
        }
    }
}
