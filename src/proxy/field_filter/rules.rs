//! The rules for fields of HTTP/2 (RFC 9113, 8.2 and 8.3): which make a message malformed.

/// What a field is to these rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    /// `:status` of a final response.
    Status,
    /// `:status` of a response that another one follows, such as 103.
    InterimStatus,
    ContentLength,
    Te,
    Other,
}

impl Kind {
    /// The kind of a field by its value, too.
    pub(super) fn with(self, value: &[u8]) -> Self {
        match self {
            Self::Status | Self::InterimStatus if value.first() == Some(&b'1') => Self::InterimStatus,
            Self::Status | Self::InterimStatus => Self::Status,
            kind => kind,
        }
    }
}

/// What a section belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Request,
    Response,
    RequestTrailers,
    ResponseTrailers,
    /// A section on a stream that a client cannot open again, which h2 refuses by itself.
    Stray,
}

impl Part {
    /// Whether a service sent it.
    pub(super) fn is_of_response(self) -> bool {
        matches!(self, Self::Response | Self::ResponseTrailers)
    }
}

/// Why a message is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    EmptyName,
    Name,
    Pseudo,
    ConnectionSpecific,
    Reserved,
    Value,
    Edges,
    ContentLength,
    Te,
    Method,
    Status,
    Encoding,
    Repeated,
    Late,
    Misplaced,
    Missing,
    Itself,
}

impl Fault {
    /// For the log.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::EmptyName => "a field with an empty name",
            Self::Name => "a field name with an upper-case letter or another byte that no name has",
            Self::Pseudo => "an unknown pseudo-header field",
            Self::ConnectionSpecific => "a field that belongs to one connection of HTTP/1.1",
            Self::Reserved => "a field whose name is reserved for the gateway",
            Self::Value => "a field value with NUL, CR, LF or another control character",
            Self::Edges => "a field value that begins or ends with a space or tab",
            Self::ContentLength => "a content-length that is not a number",
            Self::Te => "a TE that is not \"trailers\"",
            Self::Method => "a method that is not a token",
            Self::Status => "a status that is not one",
            Self::Encoding => "a pseudo-header field that is not UTF-8",
            Self::Repeated => "a repeated pseudo-header field",
            Self::Late => "a pseudo-header field behind a regular field",
            Self::Misplaced => "a pseudo-header field of another kind of message",
            Self::Missing => "no :method, :scheme or :path",
            Self::Itself => "a stream that depends on itself",
        }
    }
}

/// The field by which the filter tells the gateway that a request was malformed, and why. Not a name that a client
/// may send.
pub(in super::super) const MALFORMED: &str = "fleetgate-malformed-request";

/// What a name stands for.
///
/// # Errors
/// No message has such a field.
pub(super) fn kind(name: &[u8]) -> Result<Kind, Fault> {
    Ok(match name {
        b"" => return Err(Fault::EmptyName),
        b":method" => Kind::Method,
        b":scheme" => Kind::Scheme,
        b":authority" => Kind::Authority,
        b":path" => Kind::Path,
        b":protocol" => Kind::Protocol,
        b":status" => Kind::Status,
        [b':', ..] => return Err(Fault::Pseudo),
        b"content-length" => Kind::ContentLength,
        b"te" => Kind::Te,
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            return Err(Fault::ConnectionSpecific);
        }
        name if name == MALFORMED.as_bytes() => return Err(Fault::Reserved),
        // The http crate has no longer names.
        name if name.len() > usize::from(u16::MAX) || !name.iter().all(|byte| is_lower_token(*byte)) => {
            return Err(Fault::Name);
        }
        _ => Kind::Other,
    })
}

/// Why a value cannot be one of its field.
pub(super) fn fault(kind: Kind, value: &[u8]) -> Option<Fault> {
    if !value.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..)) {
        return Some(Fault::Value);
    }
    if value != trimmed(value) {
        return Some(Fault::Edges);
    }
    let is_sound = match kind {
        Kind::Other => return None,
        Kind::Method => !value.is_empty() && value.iter().all(|byte| is_token(*byte)),
        Kind::Scheme | Kind::Authority | Kind::Path | Kind::Protocol => std::str::from_utf8(value).is_ok(),
        Kind::Status | Kind::InterimStatus => matches!(value, [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']),
        // h2 reads no more digits.
        Kind::ContentLength => (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit),
        Kind::Te => value == b"trailers",
    };
    let fault = match kind {
        Kind::Method => Fault::Method,
        Kind::Status | Kind::InterimStatus => Fault::Status,
        Kind::ContentLength => Fault::ContentLength,
        Kind::Te => Fault::Te,
        Kind::Scheme | Kind::Authority | Kind::Path | Kind::Protocol | Kind::Other => Fault::Encoding,
    };
    (!is_sound).then_some(fault)
}

/// A value without the spaces and tabs around it.
pub(super) fn trimmed(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(first) = value.iter().position(|byte| !is_space(byte)) else { return &[] };
    let last = value.iter().rposition(|byte| !is_space(byte)).unwrap_or(first);
    &value[first..=last]
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_uppercase() || is_lower_token(byte)
}

/// RFC 9110, 5.6.2, without upper case.
fn is_lower_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let (mut token, mut byte) = ([false; 256], 0);
        while byte < 256 {
            token[byte] = matches!(
                byte as u8,
                b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'
                    | b'_' | b'`' | b'|' | b'~'
            );
            byte += 1;
        }
        token
    };
    TOKEN[usize::from(byte)]
}

/// What a section has had so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    part: Part,
    /// A bit for each pseudo-header field.
    pseudo: u8,
    regular: bool,
}

const FINAL_STATUS: u8 = 32;
const INTERIM_STATUS: u8 = 64;

impl Seen {
    pub(super) fn new(part: Part) -> Self {
        Self { part, pseudo: 0, regular: false }
    }

    /// Takes one more field.
    ///
    /// # Errors
    /// It cannot stand here.
    pub(super) fn take(&mut self, kind: Kind) -> Result<(), Fault> {
        let bit = match kind {
            Kind::Method => 1,
            Kind::Scheme => 2,
            Kind::Path => 4,
            Kind::Authority => 8,
            Kind::Protocol => 16,
            Kind::Status => FINAL_STATUS,
            Kind::InterimStatus => INTERIM_STATUS,
            Kind::ContentLength | Kind::Te | Kind::Other => {
                self.regular = true;
                return Ok(());
            }
        };
        let is_status = matches!(kind, Kind::Status | Kind::InterimStatus);
        let fits = match self.part {
            Part::Request => !is_status,
            Part::Response => is_status,
            // RFC 9113, 8.1.
            Part::RequestTrailers | Part::ResponseTrailers => false,
            Part::Stray => true,
        };
        if !fits {
            return Err(Fault::Misplaced);
        }
        if self.regular {
            return Err(Fault::Late);
        }
        if self.pseudo & bit != 0 || is_status && self.pseudo & (FINAL_STATUS | INTERIM_STATUS) != 0 {
            return Err(Fault::Repeated);
        }
        self.pseudo |= bit;
        Ok(())
    }

    /// Whether it is the head of a final response: what follows it is trailers.
    pub(super) fn is_final_response(self) -> bool {
        self.part == Part::Response && self.pseudo & FINAL_STATUS != 0
    }

    /// The section is over.
    ///
    /// # Errors
    /// It lacks something.
    pub(super) fn end(self) -> Result<(), Fault> {
        // Without scheme and path it is CONNECT, or h2 refuses it.
        let is_whole = self.part != Part::Request || matches!(self.pseudo & 7, 1 | 7);
        if is_whole { Ok(()) } else { Err(Fault::Missing) }
    }
}
