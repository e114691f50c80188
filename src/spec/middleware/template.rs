//! Defines texts with places that each request fills.

use std::fmt;

use http::HeaderName;

/// A text with values of the request in it: `${client_ip}`, `${header.NAME}`, ...; `$$` is a dollar.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

/// What stands in a template for a value of the request. One that the request does not have is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// `client_ip`: the first address that no trusted proxy has.
    ClientIp,
    /// `scheme`: `http` or `https`, as the client sees it.
    Scheme,
    /// `host`: in lower case, without port.
    Host,
    /// `method`
    Method,
    /// `path`: as it is at this step.
    Path,
    /// `query`: without the question mark.
    Query,
    /// `request_id`
    RequestId,
    /// `route`: its name.
    Route,
    /// `consumer`: who a middleware found out the client is.
    Consumer,
    /// `claims.NAME`: of a token that a middleware checked.
    Claim(String),
    /// `header.NAME`: the first one.
    Header(HeaderName),
    /// `cookie.NAME`
    Cookie(String),
}

/// How placeholders are written, for people.
const PLACEHOLDERS: &str = "`client_ip`, `scheme`, `host`, `method`, `path`, `query`, `request_id`, `route`, `consumer`, \
                            `claims.NAME`, `header.NAME`, `cookie.NAME`";

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A dollar that begins nothing, or a placeholder that there is not.
    pub fn parse(source: &str) -> Result<Self, String> {
        let (mut pieces, mut text, mut rest) = (Vec::new(), String::new(), source);
        while let Some((before, behind)) = rest.split_once('$') {
            text.push_str(before);
            if let Some(behind) = behind.strip_prefix('$') {
                text.push('$');
                rest = behind;
                continue;
            }
            let named = behind.strip_prefix('{').and_then(|behind| behind.split_once('}'));
            let Some((name, behind)) = named else {
                return Err(format!("`{source}`: a `$` begins a value, `${{NAME}}`; write `$$` for a dollar"));
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Value(Placeholder::parse(name)?));
            rest = behind;
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self { source: source.to_owned(), pieces })
    }

    /// As it is written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text, where no request changes it.
    pub fn fixed(&self) -> Option<&str> {
        match &self.pieces[..] {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with its values, each of which `write` appends.
    pub fn fill(&self, mut write: impl FnMut(&Placeholder, &mut String)) -> String {
        let mut out = String::with_capacity(self.source.len());
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(placeholder) => write(placeholder, &mut out),
            }
        }
        out
    }
}

impl Placeholder {
    fn parse(name: &str) -> Result<Self, String> {
        let named = |prefix: &str| name.strip_prefix(prefix).filter(|name| !name.is_empty());
        Ok(match name {
            "client_ip" => Self::ClientIp,
            "scheme" => Self::Scheme,
            "host" => Self::Host,
            "method" => Self::Method,
            "path" => Self::Path,
            "query" => Self::Query,
            "request_id" => Self::RequestId,
            "route" => Self::Route,
            "consumer" => Self::Consumer,
            _ => {
                if let Some(claim) = named("claims.") {
                    Self::Claim(claim.to_owned())
                } else if let Some(cookie) = named("cookie.") {
                    Self::Cookie(cookie.to_owned())
                } else if let Some(header) = named("header.").and_then(|header| header.parse().ok()) {
                    Self::Header(header)
                } else {
                    return Err(format!("there is no value `{name}`: the values are {PLACEHOLDERS}"));
                }
            }
        })
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        Ok(Template::parse(text)?.fill(|placeholder, out| out.push_str(&format!("<{placeholder:?}>"))))
    }

    #[test]
    fn values_stand_in_braces_and_dollars_are_doubled() {
        for (text, wanted) in [
            ("", ""),
            ("plain", "plain"),
            ("${client_ip}", "<ClientIp>"),
            ("a ${path}?${query} b", "a <Path>?<Query> b"),
            ("$$5 for ${claims.sub}", "$5 for <Claim(\"sub\")>"),
            ("${claims.a.b}${cookie.s}", "<Claim(\"a.b\")><Cookie(\"s\")>"),
            ("${header.X-User}", "<Header(\"x-user\")>"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(wanted), "{text}");
        }
        assert_eq!(Template::parse("$$").expect("a template").fixed(), Some("$"));
        assert_eq!(Template::parse("${path}").expect("a template").fixed(), None);
    }

    #[test]
    fn mistakes_are_told() {
        for (text, wanted) in [
            ("$path", "`$path`: a `$` begins a value, `${NAME}`; write `$$` for a dollar"),
            ("${path", "`${path`: a `$` begins a value, `${NAME}`; write `$$` for a dollar"),
            ("5$", "`5$`: a `$` begins a value, `${NAME}`; write `$$` for a dollar"),
        ] {
            assert_eq!(filled(text), Err(wanted.to_owned()));
        }
        for text in ["${paths}", "${}", "${header.}", "${header.a b}", "${claims.}"] {
            let told = filled(text).expect_err(text);
            assert!(told.starts_with("there is no value `") && told.contains("`cookie.NAME`"), "{told}");
        }
    }
}
